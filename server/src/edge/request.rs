//! What else a request head says, for whoever decides about the client.

/// Header lines that are looked at; heads with more are refused before.
const HEADERS_MAX: usize = 64;

/// The value of a header in a whole request head, if there is one and it is text.
pub fn header<'a>(head: &'a [u8], name: &str) -> Option<&'a str> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    request.parse(head).ok()?;
    let found = (request.headers.iter()).find(|header| header.name.eq_ignore_ascii_case(name))?;
    std::str::from_utf8(found.value).ok().map(str::trim)
}

/// What follows the path after `?`, as it came.
pub fn query(head: &[u8]) -> Option<&str> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    request.parse(head).ok()?;
    Some(request.path?.split_once('?')?.1)
}

/// The first value of a parameter of a query, with `%XX` and `+` decoded. `None` if it is not there or
/// no text.
pub fn parameter(query: &str, name: &str) -> Option<String> {
    let pairs = query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let mut values = pairs.filter(|(key, _)| decoded(key).as_deref() == Some(name));
    decoded(values.next()?.1)
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => {
                let (digits, after) = tail.split_at_checked(2)?;
                let digit = |byte: u8| char::from(byte).to_digit(16);
                let (high, low) = (digit(digits[0])?, digit(digits[1])?);
                bytes.push((high << 4 | low) as u8);
                rest = after;
            }
            other => bytes.push(*other),
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &[u8] = b"GET /a?x=1&token=s%2Fp%C3%BC+q%20r&token=2 HTTP/1.1\r\nHost: h\r\nORIGIN:  https://a.example \r\nBad: \xff\r\n\r\nmore";

    #[test]
    fn what_a_head_says() {
        assert_eq!(header(HEAD, "origin"), Some("https://a.example"));
        assert_eq!(header(HEAD, "cookie"), None);
        assert_eq!(header(HEAD, "bad"), None, "no text");
        let query = query(HEAD).unwrap();
        assert_eq!(parameter(query, "token").as_deref(), Some("s/pü q r"));
        assert_eq!(parameter(query, "x").as_deref(), Some("1"));
        assert_eq!(parameter(query, "y"), None);
        assert_eq!(super::query(b"GET /a HTTP/1.1\r\n\r\n"), None);
    }

    #[test]
    fn what_is_no_parameter() {
        for bad in [
            "token=%",
            "token=%4",
            "token=%zz",
            "token=%ff",
            "token%=1",
            "",
        ] {
            assert_eq!(parameter(bad, "token"), None, "{bad}");
        }
        assert_eq!(parameter("token", "token").as_deref(), Some(""));
        assert_eq!(parameter("t%6Fken=%", "token"), None);
    }
}
