//! rmcp as ../../sdks.py drives it: a call a line on standard input, what came of it on output.

use std::time::Duration;

use rmcp::model::{
    CallToolRequest, CallToolRequestParams, ClientRequest, JsonObject, ProgressNotificationParam,
    ProtocolVersion, ServerResult,
};
use rmcp::service::{ClientLifecycleMode, NotificationContext, Peer, PeerRequestOptions, RoleClient};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use rmcp::{ClientHandler, ClientServiceExt};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

type Failure = Box<dyn std::error::Error>;

struct Hears;

impl ClientHandler for Hears {
    async fn on_progress(&self, told: ProgressNotificationParam, _: NotificationContext<RoleClient>) {
        println!("{}", json!({"heard": told.progress, "message": told.message}));
    }
}

async fn call(peer: &Peer<RoleClient>, one: &Value) -> Result<Value, Failure> {
    let object = |name: &str| -> Option<JsonObject> { one[name].as_object().cloned() };
    let mut params = CallToolRequestParams::new(one["name"].as_str().unwrap().to_owned());
    params.arguments = object("arguments");
    let limit = Duration::from_millis(one["timeout_ms"].as_u64().unwrap());
    let mut options = PeerRequestOptions::with_timeout(limit);
    if let Some(meta) = object("meta") {
        options = options.with_meta(meta.into());
    }
    let asked = ClientRequest::CallToolRequest(CallToolRequest::new(params));
    let handle = peer.send_cancellable_request(asked, options).await?;
    match handle.await_response().await? {
        ServerResult::CallToolResult(answer) => Ok(serde_json::to_value(answer)?),
        other => Err(format!("no result: {other:?}").into()),
    }
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let asked: Vec<String> = std::env::args().skip(1).collect();
    let mut config = StreamableHttpClientTransportConfig::with_uri(asked[0].as_str());
    config.auth_header = Some(std::env::var("MCP_TOKEN")?);
    let lifecycle = if asked[1] == "2026-07-28" {
        let preferred_versions = vec![serde_json::from_value::<ProtocolVersion>(json!(asked[1]))?];
        ClientLifecycleMode::Discover { preferred_versions }
    } else {
        ClientLifecycleMode::Initialize
    };
    let transport = StreamableHttpClientTransport::from_config(config);
    let client = Hears.serve_with_lifecycle(transport, lifecycle).await?;
    let tools = client.list_all_tools().await?;
    let names: Vec<_> = tools.iter().map(|tool| tool.name.as_ref()).collect();
    println!("{}", json!({"version": asked[1], "tools": names}));
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        match call(client.peer(), &serde_json::from_str(&line)?).await {
            Ok(answer) => println!("{}", json!({"answer": answer})),
            Err(error) => println!("{}", json!({"threw": error.to_string()})),
        }
    }
    client.cancel().await?;
    Ok(())
}
