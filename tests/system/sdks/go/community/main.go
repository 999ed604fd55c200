// mark3labs/mcp-go as ../../sdks.py drives it: a call a line on standard input, what came of it on output.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"time"

	"github.com/mark3labs/mcp-go/client"
	"github.com/mark3labs/mcp-go/client/transport"
	"github.com/mark3labs/mcp-go/mcp"
)

type call struct {
	Name      string         `json:"name"`
	Arguments map[string]any `json:"arguments"`
	Meta      map[string]any `json:"meta"`
	TimeoutMS int            `json:"timeout_ms"`
	Progress  bool           `json:"progress"`
}

func say(word map[string]any) {
	if err := json.NewEncoder(os.Stdout).Encode(word); err != nil {
		panic(err)
	}
}

func connect(ctx context.Context) (*client.Client, *mcp.InitializeResult) {
	headers := map[string]string{"Authorization": "Bearer " + os.Getenv("MCP_TOKEN")}
	made, err := client.NewStreamableHttpClient(os.Args[1], transport.WithHTTPHeaders(headers))
	if err != nil {
		panic(err)
	}
	made.OnNotification(func(told mcp.JSONRPCNotification) {
		if told.Method == "notifications/progress" {
			more := told.Params.AdditionalFields
			say(map[string]any{"heard": more["progress"], "message": more["message"]})
		}
	})
	if err := made.Start(ctx); err != nil {
		panic(err)
	}
	asked := mcp.InitializeRequest{}
	asked.Params.ClientInfo = mcp.Implementation{Name: "interop", Version: "1"}
	asked.Params.ProtocolVersion = os.Args[2]
	told, err := made.Initialize(ctx, asked)
	if err != nil {
		panic(err)
	}
	return made, told
}

func main() {
	ctx := context.Background()
	made, told := connect(ctx)
	listed, err := made.ListTools(ctx, mcp.ListToolsRequest{})
	if err != nil {
		panic(err)
	}
	names := []string{}
	for _, tool := range listed.Tools {
		names = append(names, tool.Name)
	}
	say(map[string]any{"version": told.ProtocolVersion, "tools": names})
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var one call
		if err := json.Unmarshal(lines.Bytes(), &one); err != nil {
			panic(err)
		}
		answer, err := do(ctx, made, one)
		if err != nil {
			say(map[string]any{"threw": err.Error()})
		} else {
			say(map[string]any{"answer": answer})
		}
	}
	if err := made.Close(); err != nil {
		panic(err)
	}
}

func do(ctx context.Context, made *client.Client, one call) (*mcp.CallToolResult, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(one.TimeoutMS)*time.Millisecond)
	defer cancel()
	asked := mcp.CallToolRequest{}
	asked.Params.Name = one.Name
	asked.Params.Arguments = one.Arguments
	asked.Params.Meta = &mcp.Meta{AdditionalFields: one.Meta}
	if one.Progress {
		asked.Params.Meta.ProgressToken = one.Name
	}
	return made.CallTool(ctx, asked)
}
