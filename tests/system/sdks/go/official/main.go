// The Go SDK as ../../sdks.py drives it: a call a line on standard input, what came of it on output.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"os"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

type call struct {
	Name      string         `json:"name"`
	Arguments map[string]any `json:"arguments"`
	Meta      map[string]any `json:"meta"`
	TimeoutMS int            `json:"timeout_ms"`
	Progress  bool           `json:"progress"`
}

type bearer struct{}

func (bearer) RoundTrip(request *http.Request) (*http.Response, error) {
	request = request.Clone(request.Context())
	request.Header.Set("Authorization", "Bearer "+os.Getenv("MCP_TOKEN"))
	return http.DefaultTransport.RoundTrip(request)
}

func say(word map[string]any) {
	if err := json.NewEncoder(os.Stdout).Encode(word); err != nil {
		panic(err)
	}
}

func main() {
	ctx := context.Background()
	client := mcp.NewClient(&mcp.Implementation{Name: "interop", Version: "1"}, &mcp.ClientOptions{
		ProgressNotificationHandler: func(_ context.Context, told *mcp.ProgressNotificationClientRequest) {
			say(map[string]any{"heard": told.Params.Progress, "message": told.Params.Message})
		},
	})
	transport := &mcp.StreamableClientTransport{
		Endpoint:   os.Args[1],
		HTTPClient: &http.Client{Transport: bearer{}},
	}
	session, err := client.Connect(ctx, transport, &mcp.ClientSessionOptions{ProtocolVersion: os.Args[2]})
	if err != nil {
		panic(err)
	}
	names := []string{}
	for tool, err := range session.Tools(ctx, nil) {
		if err != nil {
			panic(err)
		}
		names = append(names, tool.Name)
	}
	say(map[string]any{"version": session.InitializeResult().ProtocolVersion, "tools": names})
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var one call
		if err := json.Unmarshal(lines.Bytes(), &one); err != nil {
			panic(err)
		}
		answer, err := do(ctx, session, one)
		if err != nil {
			say(map[string]any{"threw": err.Error()})
		} else {
			say(map[string]any{"answer": answer})
		}
	}
	if err := session.Close(); err != nil {
		panic(err)
	}
}

func do(ctx context.Context, session *mcp.ClientSession, one call) (*mcp.CallToolResult, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(one.TimeoutMS)*time.Millisecond)
	defer cancel()
	params := &mcp.CallToolParams{Name: one.Name, Arguments: one.Arguments, Meta: one.Meta}
	if one.Progress {
		params.SetProgressToken(one.Name)
	}
	return session.CallTool(ctx, params)
}
