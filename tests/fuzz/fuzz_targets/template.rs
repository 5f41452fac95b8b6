//! Whatever a request fills into an operator's text, it stays one line.
//!
//! The first line is the template; what follows is what the request fills in.
#![no_main]

use balancer_core::rules::{Template, Variables};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let (text, asked) = text.split_once('\n').unwrap_or((text, ""));
    let Ok(template) = Template::parse(text) else {
        return;
    };
    assert_eq!(template.as_str(), text);
    let variables = Variables {
        client_ip: "192.0.2.1",
        request_id: asked,
        host: asked,
        path_and_query: asked,
        listener: asked,
        is_https: true,
    };
    let mut out = Vec::new();
    template.write(&variables, &mut out);
    assert!(!out.iter().any(|it| matches!(it, b'\r' | b'\n' | 0)));
});
