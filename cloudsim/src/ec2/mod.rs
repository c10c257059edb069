//! The EC2 Query API, version 2016-11-15, as a function from request to reply.
//!
//! Requests are parsed strictly: a parameter that the action does not have is refused, as EC2 refuses it. A signature must be there, well
//! formed, of this region and of the present time; its secret is not checked. Supported are the actions of [`Action`](crate::cloud::Action).

mod form;
mod query;
mod reply;
mod signature;
mod xml;

use http::{HeaderValue, Method, Request, StatusCode, header};

use crate::cloud::{ApiError, Cloud, Outcome};
use crate::exchange::{self, Exchange, HttpReply};
use crate::time::Millis;
use form::Form;

/// Answers one request: POST with a form, or GET with a query.
pub fn answer(cloud: &mut Cloud, now: Millis, request: &Request<Vec<u8>>) -> Exchange {
    let request_id = cloud.request_id();
    let parsed = signature::check(request, &cloud.settings().region, now).and_then(|()| {
        let text = if request.method() == Method::GET { request.uri().query().unwrap_or_default().as_bytes() } else { request.body() };
        query::parse(Form::read(text))
    });
    let (after, result) = match parsed {
        Err(_) if cloud.is_away(now) => return Exchange::NoReply { after: Millis::ZERO },
        Err(error) => (Millis::ZERO, Err(error)),
        Ok(call) => {
            let action = call.action();
            let reply = cloud.call(now, &call);
            match reply.outcome {
                Outcome::NoReply => return Exchange::NoReply { after: reply.after },
                Outcome::Refused(error) => (reply.after, Err(error)),
                Outcome::Answered(response) => (reply.after, Ok(reply::write(cloud, action, &response, &request_id))),
            }
        }
    };
    let reply = result.map_or_else(|error| refusal(&error, &request_id), |xml| exchange::reply(StatusCode::OK, XML, xml));
    Exchange::Reply { after, reply }
}

/// Carries out the call in a form as the cloud's operator: see [`Cloud::apply`]. The reply is that of [`answer`].
pub fn apply(cloud: &mut Cloud, now: Millis, form: &[u8]) -> HttpReply {
    let request_id = cloud.request_id();
    let result = query::parse(Form::read(form)).and_then(|call| Ok((call.action(), cloud.apply(now, &call)?)));
    match result {
        Ok((action, response)) => exchange::reply(StatusCode::OK, XML, reply::write(cloud, action, &response, &request_id)),
        Err(error) => refusal(&error, &request_id),
    }
}

const XML: &str = "text/xml;charset=UTF-8";

fn refusal(error: &ApiError, request_id: &str) -> HttpReply {
    let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::BAD_REQUEST);
    let mut answer = exchange::reply(status, XML, reply::write_error(error, request_id));
    if let Some(seconds) = error.retry_after {
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    answer
}
