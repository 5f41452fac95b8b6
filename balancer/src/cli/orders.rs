//! Orders about a node: drained, undrained, weighed; and the wait until a drained node has nothing left to do.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{
    CliError, Out,
    client::Client,
    shown::{list, number},
};

/// How often a node that drains is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

const WEIGHT_MAX: u32 = 10_000;

/// A weight, or none for the one that the node announces.
#[derive(Debug, Clone, Copy)]
pub struct WeightArg(Option<u32>);

pub(super) fn weight(text: &str) -> Result<WeightArg, String> {
    let number = text.parse().ok().filter(|it| *it <= WEIGHT_MAX);
    match (text, number) {
        ("announced", _) => Ok(WeightArg(None)),
        (_, Some(number)) => Ok(WeightArg(Some(number))),
        _ => Err(format!(
            "neither a number from 0 to {WEIGHT_MAX} nor `announced`"
        )),
    }
}

pub(super) async fn give(
    client: &Client,
    out: &Out,
    node: &str,
    order: &str,
    weight: Option<WeightArg>,
) -> Result<(), CliError> {
    let path = format!("/api/v1/nodes/{}/{order}", escaped(node));
    let body = weight.map(|it| json!({ "weight": it.0 }));
    let answer = client.post(&path, body).await?;
    out.answer(&answer, |it| in_force(node, &it["override"]))
}

fn in_force(node: &str, order: &Value) -> String {
    let drained = match order["drained"] == true {
        true => "gets no new work",
        false => "gets work as it announces and probes find",
    };
    match order["weight"].as_u64() {
        Some(weight) => format!("{node}: {drained}; weight {weight} by order"),
        None => format!("{node}: {drained}"),
    }
}

/// Waits until nothing is in flight at the node.
pub(super) async fn until_idle(
    client: &Client,
    out: &Out,
    node: &str,
    timeout: Option<Duration>,
) -> Result<(), CliError> {
    let began = Instant::now();
    loop {
        // Each core hears of the drain a moment after the order was answered.
        tokio::time::sleep(LOOK_EVERY).await;
        let left = in_flight(&client.get("/api/v1/endpoints").await?, node);
        if left == 0 {
            return match out.json {
                true => Ok(()),
                false => out.text(&format!("{node}: nothing is in flight")),
            };
        }
        if timeout.is_some_and(|it| began.elapsed() >= it) {
            return Err(CliError::Failed(format!(
                "{node}: {left} still in flight after {:.1?}",
                began.elapsed()
            )));
        }
    }
}

fn in_flight(endpoints: &Value, node: &str) -> u64 {
    let of_node = list(endpoints, "endpoints")
        .iter()
        .filter(|it| it["node"] == node);
    of_node.map(|it| number(it, "in_flight")).sum()
}

/// A text as one segment of a path (RFC 3986 §3.3): all but the unreserved is written as `%` and two digits.
pub(super) fn escaped(text: &str) -> String {
    let plain = |it: u8| it.is_ascii_alphanumeric() || b"-._~".contains(&it);
    text.bytes()
        .map(|it| match plain(it) {
            true => char::from(it).to_string(),
            false => format!("%{it:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_is_a_number_or_the_announced_one() {
        assert_eq!(weight("7").map(|it| it.0), Ok(Some(7)));
        assert_eq!(weight("announced").map(|it| it.0), Ok(None));
        for wrong in ["-1", "10001", "heavy", ""] {
            assert!(weight(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_in_flight_at_all_services_of_a_node_counts() {
        let endpoint = |node: &str, n: u64| json!({ "node": node, "in_flight": n });
        let all = json!({ "endpoints": [endpoint("a", 1), endpoint("b", 7), endpoint("a", 2)] });
        assert_eq!(in_flight(&all, "a"), 3);
    }

    #[test]
    fn a_node_of_any_name_is_one_segment() {
        assert_eq!(escaped("127.0.0.1:80"), "127.0.0.1%3A80");
        assert_eq!(escaped("a/../b?"), "a%2F..%2Fb%3F");
    }
}
