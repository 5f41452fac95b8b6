//! Rules that remove, set and add fields of a head, in this order.

use http::HeaderName;

use super::{
    condition::HOP_BY_HOP,
    template::{Template, TemplateError, Variables},
};
use crate::message::{Fields, Known};

/// What happens to the fields of a head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldRules {
    remove: Vec<HeaderName>,
    set: Vec<(HeaderName, Template)>,
    add: Vec<(HeaderName, Template)>,
}

/// Whose head it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Request,
    Response,
}

/// Why a rule is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    #[error("not a field's name")]
    Name,
    #[error("this field belongs to the connection or frames the body: the balancer writes it")]
    Ours,
    #[error("the host that a node is asked for is set by `rewrite.host`")]
    Host,
    #[error(transparent)]
    Value(#[from] TemplateError),
}

impl FieldRules {
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    pub fn remove(&mut self, side: Side, name: &str) -> Result<(), RuleError> {
        self.remove.push(field_name(side, name)?);
        Ok(())
    }

    pub fn set(&mut self, side: Side, name: &str, value: &str) -> Result<(), RuleError> {
        let rule = (field_name(side, name)?, Template::parse(value)?);
        self.set.push(rule);
        Ok(())
    }

    pub fn add(&mut self, side: Side, name: &str, value: &str) -> Result<(), RuleError> {
        let rule = (field_name(side, name)?, Template::parse(value)?);
        self.add.push(rule);
        Ok(())
    }

    pub fn removed(&self) -> impl Iterator<Item = &str> {
        self.remove.iter().map(HeaderName::as_str)
    }

    pub fn set_to(&self) -> impl Iterator<Item = (&str, &str)> {
        self.set
            .iter()
            .map(|(name, it)| (name.as_str(), it.as_str()))
    }

    pub fn added(&self) -> impl Iterator<Item = (&str, &str)> {
        self.add
            .iter()
            .map(|(name, it)| (name.as_str(), it.as_str()))
    }

    pub fn apply(&self, fields: &mut Fields, variables: &Variables<'_>) {
        for name in &self.remove {
            fields.remove_named(name.as_str().as_bytes());
        }
        let mut value = Vec::new();
        for (name, template) in &self.set {
            fields.remove_named(name.as_str().as_bytes());
            push(fields, name, template, variables, &mut value);
        }
        for (name, template) in &self.add {
            push(fields, name, template, variables, &mut value);
        }
    }
}

fn push(
    fields: &mut Fields,
    name: &HeaderName,
    template: &Template,
    variables: &Variables<'_>,
    value: &mut Vec<u8>,
) {
    value.clear();
    template.write(variables, value);
    fields.push(name.as_str().as_bytes(), value.trim_ascii());
}

fn field_name(side: Side, text: &str) -> Result<HeaderName, RuleError> {
    let name = HeaderName::from_bytes(text.as_bytes()).map_err(|_| RuleError::Name)?;
    let known = Known::of(name.as_str().as_bytes());
    match known {
        Known::Host if side == Side::Request => Err(RuleError::Host),
        Known::Host | Known::SecWebsocketAccept | Known::SecWebsocketKey | Known::Expect => {
            Err(RuleError::Ours)
        }
        known if HOP_BY_HOP.contains(&known) => Err(RuleError::Ours),
        _ => Ok(name),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::template::tests::ASKED, *};

    #[test]
    fn fields_are_removed_then_set_then_added() {
        let mut rules = FieldRules::default();
        rules.remove(Side::Request, "X-Gone").expect("valid");
        rules.set(Side::Request, "x-set", "${host}").expect("valid");
        rules.add(Side::Request, "x-gone", "back").expect("valid");
        let mut fields = Fields::default();
        for (name, value) in [("x-gone", "1"), ("X-Set", "1"), ("x-set", "2"), ("x", "y")] {
            fields.push(name.as_bytes(), value.as_bytes());
        }
        rules.apply(&mut fields, &ASKED);
        let lines: Vec<_> = fields.iter().collect();
        let expected = [("x", "y"), ("x-set", "a.example"), ("x-gone", "back")];
        assert_eq!(lines, expected.map(|(a, b)| (a.as_bytes(), b.as_bytes())));
    }

    #[test]
    fn what_the_balancer_writes_is_not_to_be_set() {
        for name in [
            "connection",
            "Content-Length",
            "transfer-encoding",
            "Upgrade",
            "te",
            "trailer",
            "keep-alive",
            "proxy-connection",
            "expect",
        ] {
            check(Side::Request, name, Err(RuleError::Ours));
            check(Side::Response, name, Err(RuleError::Ours));
        }
        check(Side::Request, "Host", Err(RuleError::Host));
        check(Side::Response, "Host", Err(RuleError::Ours));
        for name in ["", "a b", ":path", "a:", "a\r\nb", "ä"] {
            check(Side::Request, name, Err(RuleError::Name));
        }
        check(Side::Request, "x-a", Ok(()));
        let value = FieldRules::default().add(Side::Response, "x", "a\nb");
        assert_eq!(value, Err(RuleError::Value(TemplateError::Character)));
    }

    fn check(side: Side, name: &str, expected: Result<(), RuleError>) {
        let set = FieldRules::default().set(side, name, "1");
        assert_eq!(set, expected, "{name}");
        assert_eq!(FieldRules::default().remove(side, name), expected, "{name}");
    }
}
