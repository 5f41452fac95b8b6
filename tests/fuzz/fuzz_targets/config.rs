//! A balancer.toml is a configuration or an error that can be shown, never a panic.
#![no_main]

use balancer::config::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(err) = Config::from_toml("balancer.toml", text) {
        assert!(!err.to_string().is_empty(), "an error says something");
    }
});
