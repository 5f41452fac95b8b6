//! Carries an exchange to a node and back.

pub mod body;
pub mod http;
pub mod tcp;
pub mod upgrade;
