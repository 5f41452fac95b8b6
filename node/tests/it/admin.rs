//! What those who run a node see of it.

use registry::{Registry, memory::Memory};

use crate::harness::{get, soon, start_in, wait_for};

#[tokio::test]
async fn a_node_is_announced_and_ready() {
    let registry = Registry::Memory(Memory::new());
    let node = start_in(registry.clone(), "30s", "").await;
    let (_, record) =
        wait_for::<registry::NodeRecord>(&mut registry.watch(), |it| it.id == "n1").await;
    assert_eq!(record.services["web"], node.web_address().to_string());
    assert_eq!((record.weight, record.zone.as_deref()), (100, Some("z1")));
    assert_eq!(get(node.admin_address(), "/livez", "").await.status, 200);
    soon(async { while get(node.admin_address(), "/readyz", "").await.status != 200 {} }).await;
}

#[tokio::test]
async fn exchanges_are_counted_once() {
    let registry = Registry::Memory(Memory::new());
    let node = start_in(registry, "30s", "advertise = 'elsewhere:80'").await;
    get(node.web_address(), "/whoami", "").await;
    get(node.web_address(), "/absent", "").await;
    let text = soon(async {
        loop {
            let text = get(node.admin_address(), "/metrics", "")
                .await
                .text()
                .to_owned();
            // The last of these is counted when its connection has written it.
            if text.contains("colonnade_node_active_connections 0")
                && text.contains("colonnade_node_registry_connected 1")
            {
                return text;
            }
        }
    })
    .await;
    for line in [
        "colonnade_node_requests_total{service=\"web\",code=\"2xx\"} 1",
        "colonnade_node_requests_total{service=\"web\",code=\"4xx\"} 1",
        "colonnade_node_requests_total{service=\"web\",code=\"5xx\"} 0",
        "colonnade_node_request_duration_seconds_count{service=\"web\"} 2",
        "colonnade_node_leaving 0",
        "colonnade_node_build_info{version=\"0.1.0\"} 1",
    ] {
        assert!(text.contains(line), "{line} must be in\n{text}");
    }
}
