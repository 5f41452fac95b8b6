//! Which requests a route takes among those for its host and path: by method and by fields of the head.

use http::Method;

use crate::message::{Known, Request};

/// What must all hold of a request. None is no condition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// One of these; an empty list asks for nothing.
    pub methods: Vec<Method>,
    pub fields: Vec<FieldCondition>,
}

/// What must hold of one field of the head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldCondition {
    /// In lower case.
    pub name: Box<str>,
    /// The value of the only line with this name; none asks merely that there is a line.
    pub value: Option<Box<str>>,
}

impl Conditions {
    /// How telling they are: the list of methods counts as one, each field as one.
    pub fn count(&self) -> usize {
        usize::from(!self.methods.is_empty()) + self.fields.len()
    }

    pub fn accept(&self, head: &Request) -> bool {
        let method = self.methods.is_empty() || self.methods.contains(&head.method);
        method && self.fields.iter().all(|it| it.accepts(head))
    }

    /// Whether no request can meet both: their methods or the values of a field exclude each other.
    pub fn exclude(&self, other: &Self) -> bool {
        let both_ask = !self.methods.is_empty() && !other.methods.is_empty();
        let no_method = both_ask && !self.methods.iter().any(|it| other.methods.contains(it));
        let no_value = |mine: &FieldCondition| other.fields.iter().any(|it| it.excludes(mine));
        no_method || self.fields.iter().any(no_value)
    }
}

impl FieldCondition {
    fn accepts(&self, head: &Request) -> bool {
        let Some(expected) = &self.value else {
            return head.fields.named(&self.name).is_some();
        };
        // A field that stands there twice has no one value: whoever reads the other line would see another request.
        let mut lines = head.fields.lines_named(&self.name);
        lines.next() == Some(expected.as_bytes()) && lines.next().is_none()
    }

    fn excludes(&self, other: &Self) -> bool {
        let same_name = self.name == other.name;
        let both = self.value.as_ref().zip(other.value.as_ref());
        same_name && both.is_some_and(|(a, b)| a != b)
    }
}

/// Field names that say nothing a route may depend on, because they end with the hop or frame the body.
pub(super) const HOP_BY_HOP: [Known; 9] = [
    Known::Connection,
    Known::KeepAlive,
    Known::ProxyConnection,
    Known::TransferEncoding,
    Known::ContentLength,
    Known::Upgrade,
    Known::Http2Settings,
    Known::Te,
    Known::Trailer,
];

#[cfg(test)]
mod tests {
    use http::Version;

    use super::*;

    #[test]
    fn every_condition_must_hold() {
        let conditions = conditions(&["GET", "HEAD"], &[("x-a", Some("1")), ("x-b", None)]);
        assert_eq!(conditions.count(), 3);
        assert!(conditions.accept(&head("GET", &[("X-A", "1"), ("x-b", "")])));
        assert!(!conditions.accept(&head("POST", &[("x-a", "1"), ("x-b", "")])));
        assert!(!conditions.accept(&head("GET", &[("x-a", "2"), ("x-b", "")])));
        assert!(!conditions.accept(&head("GET", &[("x-a", "1")])));
    }

    #[test]
    fn a_field_that_stands_there_twice_has_no_value() {
        let conditions = conditions(&[], &[("x-a", Some("1"))]);
        assert!(!conditions.accept(&head("GET", &[("x-a", "1"), ("x-a", "1")])));
        assert!(!conditions.accept(&head("GET", &[("x-a", "1"), ("x-a", "2")])));
    }

    #[test]
    fn some_conditions_exclude_each_other() {
        let get = conditions(&["GET"], &[]);
        let put = conditions(&["PUT", "POST"], &[]);
        let one = conditions(&[], &[("x", Some("1"))]);
        let two = conditions(&[], &[("x", Some("2"))]);
        let any = conditions(&[], &[("x", None)]);
        assert!(get.exclude(&put) && one.exclude(&two));
        assert!(!get.exclude(&one) && !one.exclude(&any) && !get.exclude(&get));
    }

    fn conditions(methods: &[&str], fields: &[(&str, Option<&str>)]) -> Conditions {
        let methods = methods.iter().map(|it| it.parse().expect("a method"));
        let fields = fields.iter().map(|(name, value)| FieldCondition {
            name: (*name).into(),
            value: value.map(Box::from),
        });
        Conditions {
            methods: methods.collect(),
            fields: fields.collect(),
        }
    }

    fn head(method: &str, fields: &[(&str, &str)]) -> Request {
        let method = method.parse().expect("a method");
        let mut head = Request::new(method, Version::HTTP_11, None, b"/");
        for (name, value) in fields {
            head.fields.push(name.as_bytes(), value.as_bytes());
        }
        head
    }
}
