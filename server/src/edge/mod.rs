//! The edge: what stands on the wire below a dialect. Pure: bytes in, bytes out.

pub mod http;
pub mod proxy;
pub mod request;
pub mod websocket;
