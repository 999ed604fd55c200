import io.modelcontextprotocol.client.McpAsyncClient;
import io.modelcontextprotocol.client.McpClient;
import io.modelcontextprotocol.client.transport.HttpClientStreamableHttpTransport;
import io.modelcontextprotocol.json.McpJsonDefaults;
import io.modelcontextprotocol.json.McpJsonMapper;
import io.modelcontextprotocol.spec.McpSchema;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.net.URI;
import java.net.http.HttpRequest;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import reactor.core.publisher.Mono;

/** The Java SDK as ../sdks.py drives it: a call a line on standard input, what came on output. */
class Interop {
  static final McpJsonMapper JSON = McpJsonDefaults.getMapper();
  static final PrintStream OUT = new PrintStream(System.out, true, StandardCharsets.UTF_8);

  static synchronized void say(Object word) {
    try {
      OUT.println(JSON.writeValueAsString(word));
    } catch (IOException error) {
      throw new IllegalStateException(error);
    }
  }

  static McpAsyncClient connect(URI url, String version) {
    var bearer = "Bearer " + System.getenv("MCP_TOKEN");
    var transport =
        HttpClientStreamableHttpTransport.builder(url.resolve("/").toString())
            .endpoint(url.getPath())
            .requestBuilder(HttpRequest.newBuilder().header("Authorization", bearer))
            .supportedProtocolVersions(List.of(version))
            .build();
    return McpClient.async(transport)
        .clientInfo(McpSchema.Implementation.builder("interop", "1").build())
        .requestTimeout(Duration.ofSeconds(30))
        .enableCallToolSchemaCaching(true)
        .progressConsumer(
            told -> {
              say(Map.of("heard", told.progress(), "message", String.valueOf(told.message())));
              return Mono.empty();
            })
        .build();
  }

  static Object call(McpAsyncClient client, Map<String, Object> one) {
    var asked = McpSchema.CallToolRequest.builder((String) one.get("name"));
    asked.arguments(JSON.convertValue(one.get("arguments"), Map.class));
    asked.meta(JSON.convertValue(one.get("meta"), Map.class));
    if (Boolean.TRUE.equals(one.get("progress"))) {
      asked.progressToken(one.get("name"));
    }
    var limit = Duration.ofMillis(((Number) one.get("timeout_ms")).longValue());
    try {
      return Map.of("answer", client.callTool(asked.build()).timeout(limit).block());
    } catch (RuntimeException error) {
      return Map.of("threw", String.valueOf(error));
    }
  }

  public static void main(String[] args) throws IOException {
    var client = connect(URI.create(args[0]), args[1]);
    var told = client.initialize().block();
    var names = client.listTools().block().tools().stream().map(McpSchema.Tool::name).toList();
    say(Map.of("version", told.protocolVersion(), "tools", names));
    var lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    for (var line = lines.readLine(); line != null; line = lines.readLine()) {
      say(call(client, JSON.readValue(line, Map.class)));
    }
    client.closeGracefully().block();
    System.exit(0);
  }
}
