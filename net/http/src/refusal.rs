//! What is wrong with a request that HTTP itself refuses.

/// A request that is not taken. The caller answers it with [`Refusal::status`]; the connection closes then, because where
/// the next request begins is no longer certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{fault}")]
pub struct Refusal {
    /// The status to answer with.
    pub status: u16,
    /// What is wrong, for the log and the answer's text.
    pub fault: Fault,
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The head is longer than allowed.
    #[error("the request's head is too long")]
    HeadTooLong,
    /// The head has more fields than allowed.
    #[error("the request has too many header fields")]
    TooManyHeaders,
    /// The request line or a header field breaks the grammar.
    #[error("the request's head is malformed")]
    Head,
    /// A line that does not end in CR LF, or a CR or LF within one.
    #[error("a line of the request's head does not end in CR LF")]
    LineEnd,
    /// Neither HTTP/1.0 nor HTTP/1.1.
    #[error("the HTTP version is not supported")]
    Version,
    /// None, two or an empty `Host` field where there must be one.
    #[error("the request needs exactly one Host field")]
    Host,
    /// `Content-Length` is not one plain number.
    #[error("the Content-Length field is malformed or repeated")]
    Length,
    /// Both a length and a transfer coding, or a coding in HTTP/1.0.
    #[error("the request's length can be read in two ways")]
    AmbiguousLength,
    /// A transfer coding other than `chunked`.
    #[error("the transfer coding is not supported")]
    TransferCoding,
    /// A chunk breaks the grammar.
    #[error("a chunk of the request's body is malformed")]
    Chunk,
    /// The body is longer than allowed.
    #[error("the request's body is too long")]
    BodyTooLong,
    /// An `Expect` field other than `100-continue`.
    #[error("the expectation cannot be met")]
    Expectation,
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        let status = match fault {
            Fault::HeadTooLong | Fault::TooManyHeaders => 431,
            Fault::Version => 505,
            Fault::TransferCoding => 501,
            Fault::BodyTooLong => 413,
            Fault::Expectation => 417,
            Fault::Head
            | Fault::LineEnd
            | Fault::Host
            | Fault::Length
            | Fault::AmbiguousLength
            | Fault::Chunk => 400,
        };
        Self { status, fault }
    }
}
