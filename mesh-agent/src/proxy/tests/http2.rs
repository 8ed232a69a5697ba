//! HTTP/1.1 through the proxy.
