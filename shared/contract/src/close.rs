//! Close codes of sockets, on which clients act.

/// A close code of the protocol. Numbers are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Close {
    /// The client left, or requested the close. No action.
    Normal = 1000,
    /// A violation of the WebSocket protocol. Give up: the client is broken.
    Protocol = 1002,
    /// A binary frame. Give up: the client uses another protocol.
    Binary = 1003,
    /// A text frame that is not UTF-8. Give up: the client is broken.
    NotUtf8 = 1007,
    /// A frame over [`crate::limits::FRAME_BYTES`]. Give up.
    TooBig = 1009,
    /// A server fault. Reconnect.
    Fault = 1011,
    /// The server is restarting. Reconnect, with jitter.
    Restart = 1012,
    /// The server is overloaded, or this client read too slowly. Reconnect with `after` and backoff.
    Overloaded = 1013,
    /// Invalid socket address (`after` is not an id). Give up: the client is broken.
    BadAddress = 4400,
    /// The token is missing, invalid or expired. Get a new token.
    Unauthorized = 4401,
    /// Not a participant, or the conversation doesn't exist. Give up.
    Forbidden = 4403,
    /// Far over the rate limit. Back off.
    RateLimited = 4429,
}

impl Close {
    /// Numeric code of the close frame.
    pub const fn code(self) -> u16 {
        self as u16
    }

    /// Reason in the close frame: short and safe to show, without server details.
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
