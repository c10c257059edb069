//! The form of an AWS Signature Version 4. Whose secret made it is not looked at.

use http::{Request, header};

use crate::cloud::ApiError;
use crate::time::Millis;

/// How far a request's time may be from ours.
const TOLERANCE: Millis = Millis::seconds(300);

pub(super) fn check<B>(request: &Request<B>, region: &str, now: Millis) -> Result<(), ApiError> {
    let text = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let authorization = text(header::AUTHORIZATION.as_str())
        .ok_or_else(|| ApiError::new(403, "MissingAuthenticationToken", "Request is missing Authentication Token"))?;
    let incomplete = |what: &str| ApiError::client("IncompleteSignature", format!("{what}: Authorization={authorization}"));
    let parts = authorization.strip_prefix("AWS4-HMAC-SHA256 ").ok_or_else(|| incomplete("Unsupported algorithm"))?;
    let part = |name: &str| parts.split(',').find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('='));

    let credential = part("Credential").ok_or_else(|| incomplete("Authorization header requires 'Credential' parameter"))?;
    let headers = part("SignedHeaders").ok_or_else(|| incomplete("Authorization header requires 'SignedHeaders' parameter"))?;
    let signature = part("Signature").ok_or_else(|| incomplete("Authorization header requires 'Signature' parameter"))?;
    if signature.len() != 64 || !signature.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(incomplete("Signature is not 64 hexadecimal digits"));
    }
    if !["host", "x-amz-date"].iter().all(|needed| headers.split(';').any(|header| header == *needed)) {
        return Err(incomplete("'host' and 'x-amz-date' must be signed headers"));
    }
    let scope: Vec<_> = credential.split('/').collect();
    let &[access_key, day, of_region, service, terminator] = scope.as_slice() else {
        return Err(incomplete("Credential must have five parts"));
    };

    let date = text("x-amz-date").ok_or_else(|| incomplete("Authorization header requires a 'X-Amz-Date' header"))?;
    let at = Millis::from_amz_date(date).ok_or_else(|| incomplete("Date must be in ISO-8601 'basic format'"))?;
    if now.since(at) > TOLERANCE || at.since(now) > TOLERANCE {
        return Err(ApiError::client("RequestExpired", "Request has expired."));
    }
    let temporary_without_token = access_key.starts_with("ASIA") && text("x-amz-security-token").is_none();
    if !date.starts_with(day)
        || of_region != region
        || (service, terminator) != ("ec2", "aws4_request")
        || access_key.is_empty()
        || temporary_without_token
    {
        return Err(ApiError::auth_failure());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = Millis(1_795_466_479_000);

    fn code(authorization: Option<&str>, date: &str, token: bool) -> Option<&'static str> {
        let mut request = Request::builder().header("x-amz-date", date);
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        if token {
            request = request.header("x-amz-security-token", "token");
        }
        check(&request.body(()).unwrap(), "eu-west-1", NOW).err().map(|error| error.code)
    }

    #[test]
    fn what_is_wrong_with_a_signature_has_its_own_code() {
        let good = |key: &str, region: &str| {
            let signature = "0".repeat(64);
            format!(
                "AWS4-HMAC-SHA256 Credential={key}/20261123/{region}/ec2/aws4_request, SignedHeaders=host;x-amz-date, Signature={signature}"
            )
        };
        let date = "20261123T204119Z";
        assert_eq!(code(Some(&good("AKIA", "eu-west-1")), date, false), None);
        assert_eq!(code(None, date, false), Some("MissingAuthenticationToken"));
        assert_eq!(code(Some("Basic eDp5"), date, false), Some("IncompleteSignature"));
        assert_eq!(code(Some(&good("AKIA", "eu-west-1").replace("00000", "0")), date, false), Some("IncompleteSignature"));
        assert_eq!(code(Some(&good("AKIA", "eu-west-1").replace("host;", "")), date, false), Some("IncompleteSignature"));
        assert_eq!(code(Some(&good("AKIA", "us-east-1")), date, false), Some("AuthFailure"));
        assert_eq!(code(Some(&good("ASIA", "eu-west-1")), date, false), Some("AuthFailure"), "temporary keys need their token");
        assert_eq!(code(Some(&good("ASIA", "eu-west-1")), date, true), None);
        assert_eq!(code(Some(&good("AKIA", "eu-west-1")), "20261123T203618Z", false), Some("RequestExpired"));
        assert_eq!(code(Some(&good("AKIA", "eu-west-1")), "20261123T203620Z", false), None);
    }
}
