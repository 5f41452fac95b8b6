//! Carries an exchange to a node and back.

pub(crate) mod body;
pub(crate) mod http;
pub(crate) mod tcp;
pub(crate) mod upgrade;
