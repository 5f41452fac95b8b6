//! Attacks and lies, tried for real: each against its bar, while a client beside it must not notice.

mod bombs;
mod crowds;
mod downgrade;
mod floods;
mod handshakes;
mod lies;
mod slow;
mod smuggling;
mod source;
mod streams;
mod world;
