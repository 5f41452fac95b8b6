//! The page of a node that has no sites: which node this is.

use axum::body::Body;
use http::{HeaderMap, HeaderValue, Response, header};

use crate::service::whoami::Identity;

/// Nothing but the page's own style is loaded or run.
const POLICY: HeaderValue =
    HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'");

pub(super) fn of(identity: &Identity) -> Response<Body> {
    let mut response = Response::new(Body::from(html(identity)));
    add_fields(response.headers_mut());
    response
}

fn add_fields(headers: &mut HeaderMap) {
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/html; charset=utf-8"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::CONTENT_SECURITY_POLICY, POLICY);
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
}

fn html(identity: &Identity) -> String {
    let id = escaped(&identity.node_id);
    let zone = identity.zone.as_deref().map(escaped).unwrap_or_default();
    let version = escaped(&identity.version);
    let incarnation = identity.incarnation;
    format!(
        "<!doctype html>
<html lang=\"en\">
<meta charset=\"utf-8\">
<meta name=\"viewport\" content=\"width=device-width\">
<title>{id}</title>
<style>body {{ font: 1.1rem/1.6 system-ui, sans-serif; max-width: 34rem; margin: 4rem auto; padding: 0 1rem }}
dt {{ color: GrayText }} dd {{ margin: 0 0 .6rem }}</style>
<h1>{id}</h1>
<p>This node of Colonnade answers your request.</p>
<dl>
<dt>Zone</dt><dd>{zone}</dd>
<dt>Version</dt><dd>{version}</dd>
<dt>Incarnation</dt><dd>{incarnation}</dd>
</dl>
<p><a href=\"/whoami\">What it sees of you</a></p>
</html>
"
    )
}

fn escaped(text: &str) -> String {
    text.chars()
        .fold(String::with_capacity(text.len()), |mut escaped, char| {
            match char {
                '&' => escaped.push_str("&amp;"),
                '<' => escaped.push_str("&lt;"),
                '>' => escaped.push_str("&gt;"),
                '"' => escaped.push_str("&quot;"),
                '\'' => escaped.push_str("&#39;"),
                char => escaped.push(char),
            }
            escaped
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_operator_wrote_is_text() {
        let identity = Identity {
            node_id: "node-1".to_owned(),
            zone: Some("<script>\"&'".to_owned()),
            incarnation: 7,
            version: "0.1.0".to_owned(),
        };
        let html = html(&identity);
        assert!(
            html.contains("<dd>&lt;script&gt;&quot;&amp;&#39;</dd>"),
            "{html}"
        );
        assert!(html.contains("<h1>node-1</h1>"));
    }
}
