//! The limits of what a server may make this client do, in one place.

use std::time::Duration;

/// The longest export name or context, in bytes (protocol: "string").
pub(crate) const MAX_STRING: usize = 4096;

/// The longest reply to an option, in bytes.
pub(crate) const MAX_OPTION_REPLY: u32 = 64 << 10;

/// The most replies to one option: a server may list its exports.
pub(crate) const MAX_OPTION_REPLIES: usize = 10_000;

/// The longest read or write without a word of the server about it, in bytes.
pub(crate) const MAX_TRANSFER: u32 = 32 << 20;

/// The greatest minimum block that a server may ask for, in bytes.
pub(crate) const MAX_MIN_BLOCK: u32 = 1 << 20;

/// The greatest length of a request with a compact header that moves no data, in bytes.
pub(crate) const MAX_COMPACT_LEN: u64 = 1 << 31;

/// The most extents in one reply.
pub(crate) const MAX_EXTENTS: u64 = 1 << 17;

/// The most chunks of one reply: a read of the greatest size, cut at every sector.
pub(crate) const MAX_CHUNKS: usize = 1 << 16;

/// The longest chunk that tells an error, in bytes.
pub(crate) const MAX_ERROR_CHUNK: u64 = 66 << 10;

/// How long a server may take to greet: it may serve another client first.
pub(crate) const GREETING_TIME: Duration = Duration::from_secs(600);

/// How long the negotiation after the greeting may take in all.
pub(crate) const HANDSHAKE_TIME: Duration = Duration::from_secs(30);

/// How long a server may be silent while a request waits.
pub(crate) const SILENCE: Duration = Duration::from_secs(600);

/// How long a connection that is given up may take for its last message.
pub(crate) const FAREWELL_TIME: Duration = Duration::from_secs(1);

/// The pause between two attempts to connect.
pub(crate) const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// The most connections of one device.
pub(crate) const MAX_CONNECTIONS: usize = 4;

/// So many requests are under way on each connection before another one is made.
pub(crate) const BUSY: usize = 2;

/// How long what a server told of extents is believed: others may write to the export.
pub(crate) const EXTENTS_LIFE: Duration = Duration::from_millis(500);
