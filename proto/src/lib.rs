//! The wire: types generated from `proto/schema` and nothing else.
