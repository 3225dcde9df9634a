//! What the first bytes of a call begin, as far as HTTP/1 says it: what tells a reader which end of a connection its
//! process is. It must never say more than the bytes do.

/// What the first bytes of a call are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Starts {
    /// A request.
    Request,
    /// A response.
    Response,
    /// Something else, or nothing.
    Other,
}

impl Starts {
    /// What these bytes begin with.
    pub fn of(bytes: &[u8]) -> Self {
        if bytes.starts_with(b"HTTP/") {
            return Self::Response;
        }
        let method = bytes.iter().take(20).take_while(|byte| byte.is_ascii_uppercase()).count();
        if method >= 3 && bytes.get(method) == Some(&b' ') { Self::Request } else { Self::Other }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_starts_a_request_a_response_or_neither() {
        assert_eq!(Starts::of(b"GET / HTTP/1.1\r\n"), Starts::Request);
        assert_eq!(Starts::of(b"HTTP/1.1 200 OK\r\n"), Starts::Response);
        assert_eq!(Starts::of(b""), Starts::Other);
        assert_eq!(Starts::of(b"OK "), Starts::Other);
        assert_eq!(Starts::of(b"{\"a\": 1}"), Starts::Other);
    }
}
