//! Does to one exchange what its route says: rewrites the request, dresses the answer, or answers without a node.

use std::sync::Arc;

use balancer_core::{
    forwarded::{self, BadRequest, RequestId},
    message::{Known, Request, Response},
    rules::{Redirect, Variables, Wanted},
};
use bytes::Bytes;
use http::{Method, Version};

use super::{
    compress::Squeeze,
    http::{After, Talk},
};
use crate::{
    accept::ClientConnection,
    config::{Actions, rules::Reply},
    forward::answer,
    observe::Ended,
    rescue::Failure,
};

/// What a route does to one exchange, and what of the request it needs to know when the answer comes.
pub(crate) struct Acting {
    actions: Arc<Actions>,
    wanted: Wanted,
    /// As the client sent them.
    host: Box<str>,
    path_and_query: Box<str>,
    request_id: String,
}

/// An answer that no node is asked for.
pub(super) struct Replied {
    response: Response,
    body: Bytes,
}

impl Acting {
    /// Nothing for a route that merely leads to a service, which costs nothing then.
    pub(super) fn begin(actions: &Arc<Actions>, head: &Request) -> Option<Box<Self>> {
        if !actions.touch_messages() {
            return None;
        }
        let compressing = actions.compressing.as_ref();
        Some(Box::new(Self {
            wanted: compressing.map_or(Wanted::Nothing, |it| it.what.wanted(head)),
            actions: actions.clone(),
            host: head.host().unwrap_or_default().into(),
            path_and_query: head.path_and_query().into(),
            request_id: String::new(),
        }))
    }

    /// Shapes the request for the node, after this hop has written down who asks.
    pub(super) fn request(
        &mut self,
        client: &ClientConnection,
        head: &mut Request,
        id: &RequestId,
    ) {
        self.request_id = id.to_string();
        let variables = self.variables(client);
        self.actions.request.apply(&mut head.fields, &variables);
        self.actions.rewrite.apply(head, &self.actions.matched);
    }

    /// Shapes the answer for the client; what is returned must be applied to its body.
    pub(super) fn response(
        &self,
        client: &ClientConnection,
        head: &mut Response,
    ) -> Option<Squeeze> {
        let variables = self.variables(client);
        self.actions.response.apply(&mut head.fields, &variables);
        let compressing = self.actions.compressing.as_ref()?;
        Squeeze::begin(compressing, self.wanted, head)
    }

    fn variables<'a>(&'a self, client: &'a ClientConnection) -> Variables<'a> {
        Variables {
            client_ip: client.hop.client(),
            request_id: &self.request_id,
            host: &self.host,
            path_and_query: &self.path_and_query,
            listener: client.listener().name.as_str(),
            is_https: client.hop.is_https(),
        }
    }
}

/// What is answered without a node.
///
/// # Errors
/// When the request asks for a tunnel, or a redirect needs the host that it does not name.
pub(super) fn reply(
    talk: &mut Talk<'_>,
    reply: &Reply,
    mut head: Request,
) -> Result<Replied, Failure> {
    if head.method == Method::CONNECT {
        return Err(Failure::ConnectRefused);
    }
    // It gives the request its id, and ends the fields of this hop.
    talk.mark(&mut head, forwarded::Exchange::Plain);
    let acting = talk.acting.as_ref();
    let acting = acting.expect("a route that replies acts on its exchanges");
    let variables = acting.variables(talk.client);
    let (mut response, body) = match reply {
        Reply::Redirect(redirect) => {
            let matched = &acting.actions.matched;
            (redirected(redirect, &variables, matched)?, Bytes::new())
        }
        Reply::Fixed(fixed) => {
            let (response, has_body) = fixed.answer(&head, &variables);
            let body = has_body.then(|| fixed.body.clone());
            (response, body.unwrap_or_default())
        }
    };
    let rules = &acting.actions.response;
    rules.apply(&mut response.fields, &variables);
    Ok(Replied { response, body })
}

fn redirected(
    redirect: &Redirect,
    variables: &Variables<'_>,
    matched: &str,
) -> Result<Response, Failure> {
    let location = redirect.location(variables, matched);
    let location = location.ok_or(BadRequest::MissingHost)?;
    let mut response = Response::new(redirect.status, Version::HTTP_11);
    let fields = &mut response.fields;
    fields.push_known(Known::Location, location.as_bytes());
    fields.push_known(Known::ContentLength, b"0");
    Ok(response)
}

pub(super) async fn send_reply(mut talk: Talk<'_>, replied: Replied) -> After {
    talk.record.end(Ended::Completed);
    talk.record.answered(replied.response.status);
    answer::own(talk, replied.response, &replied.body).await
}
