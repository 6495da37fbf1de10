//! Why a socket was closed, in numbers that clients act on.

/// A close code of the contract. Numbers are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Close {
    /// The client left, or asked to. Nothing to do.
    Normal = 1000,
    /// Not what the WebSocket protocol allows. Give up: the client is broken.
    Protocol = 1002,
    /// A binary frame. Give up: the client speaks another protocol.
    Binary = 1003,
    /// A text frame that is not UTF-8. Give up: the client is broken.
    NotUtf8 = 1007,
    /// A frame over [`crate::limits::FRAME_BYTES`]. Give up.
    TooBig = 1009,
    /// A fault of the server. Reconnect.
    Fault = 1011,
    /// The server is restarting. Reconnect, with jitter.
    Restart = 1012,
    /// Overloaded, or this client read too slowly. Reconnect with `after`, with backoff.
    Overloaded = 1013,
    /// The address of the socket makes no sense (`after` is no id). Give up: the client is broken.
    BadAddress = 4400,
    /// Token missing, invalid or expired. Get a new token.
    Unauthorized = 4401,
    /// Not a participant, or no such conversation. Give up.
    Forbidden = 4403,
    /// Far over the rate limit. Back off.
    RateLimited = 4429,
}

impl Close {
    /// The number in the close frame.
    pub const fn code(self) -> u16 {
        self as u16
    }

    /// The reason in the close frame: short, safe to show, never with details of the server.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Normal => "bye",
            Self::Protocol => "protocol error",
            Self::NotUtf8 => "not UTF-8",
            Self::Binary => "text frames only",
            Self::TooBig => "frame too big",
            Self::Fault => "server fault",
            Self::Restart => "server restarting",
            Self::Overloaded => "too slow or overloaded",
            Self::BadAddress => "\"after\" is not an id",
            Self::Unauthorized => "token missing, invalid or expired",
            Self::Forbidden => "not a participant, or no such conversation",
            Self::RateLimited => "rate limited",
        }
    }
}
