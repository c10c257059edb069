use std::time::UNIX_EPOCH;

use super::super::super::test_server::{Answer, TestServer, nobody};
use super::super::reply::{Done, NetworkInterfaces};
use super::*;

fn credentials() -> Credentials {
    Credentials::new("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", Some("session".to_owned()), None, "test")
}

fn client(endpoint: Uri) -> Ec2 {
    Ec2::new(endpoint, "us-east-1", SharedCredentialsProvider::new(credentials())).unwrap()
}

async fn refused_with(status: u16, headers: &'static [(&'static str, &'static str)], body: &'static str) -> CallError {
    let server = TestServer::start(move |_| Answer::Reply(StatusCode::from_u16(status).unwrap(), headers, body.to_owned())).await;
    client(server.url()).call::<Done>("AssignPrivateIpAddresses", Parameters::new()).await.unwrap_err()
}

fn error(code: &str, message: &str) -> &'static str {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error>\
         </Errors><RequestID>5c1f</RequestID></Response>"
    );
    Box::leak(body.into_boxed_str())
}

#[tokio::test]
async fn a_call_is_a_sorted_form_with_a_signature() {
    let body = "<DescribeNetworkInterfacesResponse><requestId>r</requestId><networkInterfaceSet/></DescribeNetworkInterfacesResponse>";
    let server = TestServer::start(move |_| Answer::ok(body)).await;
    let parameters = [("Filter.1.Value.1", "i-1&2"), ("Filter.1.Name", "attachment.instance-id")];
    let parameters = parameters.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let reply: NetworkInterfaces = client(server.url()).call("DescribeNetworkInterfaces", parameters).await.unwrap();
    assert!(reply.network_interface_set.item.is_empty() && reply.next_token.is_none());
    let asked = &server.asked()[0];
    assert_eq!(
        asked.body,
        "Action=DescribeNetworkInterfaces&Filter.1.Name=attachment.instance-id&Filter.1.Value.1=i-1%262&Version=2016-11-15"
    );
    let authorization = asked.headers["authorization"].to_str().unwrap();
    assert!(authorization.starts_with("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/"), "{authorization}");
    assert!(authorization.contains("/us-east-1/ec2/aws4_request"), "{authorization}");
    assert!(authorization.contains("SignedHeaders=content-type;host;x-amz-date;x-amz-security-token"), "{authorization}");
    assert_eq!(asked.headers["x-amz-security-token"], "session");
}

/// A sweep goes by it: two nodes whose clocks differ must agree on how old an interface is.
#[tokio::test]
async fn the_clouds_clock_is_its_replies() {
    const DATE: &[(&str, &str)] = &[("date", "Sun, 06 Nov 1994 08:49:37 GMT")];
    let body = "<DescribeSubnetsResponse><requestId>r</requestId></DescribeSubnetsResponse>";
    let server = TestServer::start(move |_| Answer::Reply(StatusCode::OK, DATE, body.to_owned())).await;
    let client = client(server.url());
    let ahead = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert!(ahead(client.cloud_clock()).abs_diff(ahead(SystemTime::now())) <= 1, "its own, until it is told");
    client.call::<Done>("DescribeSubnets", Parameters::new()).await.unwrap();
    assert!(ahead(client.cloud_clock()).abs_diff(784_111_777) <= 5, "{:?}", client.cloud_clock());
}

/// "post-x-www-form-urlencoded" of AWS's published test suite for signature version 4 is of another service, so its signature is not
/// ours; this one was computed by the published steps, apart from this code (docs/adr/0011).
#[test]
fn the_signature_is_the_published_algorithms() {
    let time = UNIX_EPOCH + Duration::from_secs(1_440_938_160);
    let credentials = Credentials::new("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", None, None, "test");
    let endpoint = Uri::from_static("https://ec2.us-east-1.amazonaws.com/");
    let request = signed(&endpoint, "Action=DescribeSubnets&Version=2016-11-15".to_owned(), "us-east-1", credentials, time).unwrap();
    assert_eq!(request.headers()["x-amz-date"], "20150830T123600Z");
    let authorization = request.headers()["authorization"].to_str().unwrap();
    let expected = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/ec2/aws4_request, \
                    SignedHeaders=content-type;host;x-amz-date, Signature=225c4d92d474f0e2b0ed5182d6047b633b5c49ddf8929d60fb3d392348c1adbc";
    assert_eq!(authorization, expected);
}

#[tokio::test]
async fn a_refusal_is_told_by_its_code() {
    let cases = [
        (503, error("RequestLimitExceeded", "Request limit exceeded."), Refusal::Throttled(None)),
        (400, error("PrivateIpAddressLimitExceeded", "will exceed limit of 10"), Refusal::Full),
        (400, error("AttachmentLimitExceeded", "Interface count 4 exceeds the limit"), Refusal::Full),
        (400, error("InsufficientCidrBlocks", "not enough free cidr blocks"), Refusal::Exhausted),
        (400, error("InsufficientFreeAddressesInSubnet", "not enough free addresses"), Refusal::Exhausted),
        (400, error("InvalidParameterValue", "There aren't sufficient free Ipv4 addresses or prefixes"), Refusal::Exhausted),
    ];
    for (status, body, refusal) in cases {
        assert_eq!(Failure::from(refused_with(status, &[], body).await), Failure::Refused(refusal));
    }
    let throttled = refused_with(429, &[("retry-after", "7")], error("ThrottlingException", "Rate exceeded")).await;
    assert_eq!(Failure::from(throttled), Failure::Refused(Refusal::Throttled(Some(7000))));
    let throttled = refused_with(429, &[("retry-after", "soon")], "slow down").await;
    assert_eq!(Failure::from(throttled), Failure::Refused(Refusal::Throttled(None)));
}

#[tokio::test]
async fn every_other_refusal_says_what_to_do() {
    let cases = [
        (403, "UnauthorizedOperation", "ec2:AssignPrivateIpAddresses"),
        (401, "AuthFailure", "check credentials, clock"),
        (400, "RequestExpired", "clock"),
        (400, "NetworkInterfaceLimitExceeded", "quota"),
        (400, "InvalidSubnetID.NotFound", "configured identifiers"),
    ];
    for (status, code, remedy) in cases {
        let Failure::Refused(Refusal::Other(why)) = refused_with(status, &[], error(code, "Words of EC2.")).await.into() else {
            panic!("{code}")
        };
        assert!(why.starts_with(&format!("AssignPrivateIpAddresses: {code}: Words of EC2.;")) && why.contains(remedy), "{why}");
    }
}

#[tokio::test]
async fn what_may_have_been_done_is_unknown() {
    let html = "<html><body><h1>502 Bad Gateway</h1></body></html>";
    let cases = [
        (500, error("InternalError", "An internal error has occurred")),
        (503, error("Unavailable", "The server is overloaded")),
        (502, html),
        (500, ""),
        (200, html),
        (200, ""),
        (200, "<AssignPrivateIpAddressesResponse><requestId>r</requestId>"),
        (200, "<DescribeSubnetsResponse/>"),
    ];
    for (status, body) in cases {
        let failure = Failure::from(refused_with(status, &[], body).await);
        assert!(matches!(failure, Failure::Unknown(_)), "{status} {body}: {failure:?}");
    }
    let server = TestServer::start(|_| Answer::Never).await;
    let began = std::time::Instant::now();
    let failure = client(server.url()).call::<Done>("AssignPrivateIpAddresses", Parameters::new()).await.unwrap_err();
    assert!(matches!(Failure::from(failure), Failure::Unknown(why) if why.contains("nothing within 15 s")));
    assert!(began.elapsed() < TIMEOUT + Duration::from_secs(2));
}

#[tokio::test]
async fn what_was_never_sent_is_refused() {
    for endpoint in [nobody().await, Uri::from_static("http://ec2.invalid/")] {
        let failure = client(endpoint).call::<Done>("DescribeSubnets", Parameters::new()).await.unwrap_err();
        let Failure::Refused(Refusal::Other(why)) = Failure::from(failure) else { panic!("not refused") };
        assert!(why.contains("cannot connect") && why.contains("check name resolution"), "{why}");
    }
    let proxy = refused_with(403, &[], "<html>Blocked by your administrator</html>").await;
    let Failure::Refused(Refusal::Other(why)) = Failure::from(proxy) else { panic!("not refused") };
    assert!(why.contains("Blocked by your administrator") && why.contains("check the endpoint"), "{why}");
}

#[tokio::test]
async fn what_the_cloud_says_is_bounded_and_the_same_each_time() {
    let texts = ["You are not authorized. Encoded authorization failure message: Zm9v".to_owned(), "word ".repeat(10_000)];
    for text in texts {
        let failure = refused_with(403, &[], error("UnauthorizedOperation", &text)).await.to_string();
        assert!(!failure.contains("Zm9v") && failure.len() < 600, "{failure}");
    }
}

#[tokio::test]
async fn a_service_that_asks_to_be_left_alone_is_left_alone_for_an_hour_at_most() {
    const CASES: [(&[(&str, &str)], u64); 2] = [(&[("retry-after", "7")], 7000), (&[("retry-after", "1000000000000")], 3_600_000)];
    for (headers, millis) in CASES {
        let failure = Failure::from(refused_with(503, headers, error("Unavailable", "The server is overloaded")).await);
        assert!(matches!(failure, Failure::Overloaded(_, told) if told == millis), "{failure:?}");
        let read = crate::outcome_of_read(Err(failure));
        assert_eq!(read, ipam_supply::Outcome::Refused(Refusal::Throttled(Some(millis))));
    }
}
