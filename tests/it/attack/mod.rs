//! Attacks and lies, tried for real: each against its bar, while a client beside it must not notice.

mod bombs;
mod floods;
mod slow;
mod smuggling;
mod streams;
mod world;
