//! Real servers on this machine, each a thread that answers what it is told to.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// What the server has been asked.
pub(in crate::telemetry) type Asked = Arc<Mutex<Vec<String>>>;

fn respond(mut stream: impl Read + Write, answer: &str, asked: &Asked) -> std::io::Result<()> {
    let (mut bytes, mut part) = (Vec::new(), [0; 4096]);
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length =
                head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                asked.lock().unwrap().push(text);
                break;
            }
        }
        match stream.read(&mut part)? {
            0 => return Ok(()),
            read => bytes.extend_from_slice(&part[..read]),
        }
    }
    stream.write_all(answer.as_bytes())?;
    stream.flush()
}

/// A server that gives each caller `answer`, over TLS if it has a configuration for it.
pub(in crate::telemetry) fn serve(tls: Option<rustls::ServerConfig>, answer: &str) -> (SocketAddr, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, asked, answer) = (listener.local_addr().unwrap(), Asked::default(), answer.to_owned());
    let (tls, hears) = (tls.map(Arc::new), Arc::clone(&asked));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = match &tls {
                None => respond(stream, &answer, &hears),
                Some(tls) => rustls::ServerConnection::new(Arc::clone(tls))
                    .map_err(std::io::Error::other)
                    .and_then(|session| respond(rustls::StreamOwned::new(session, stream), &answer, &hears)),
            };
        }
    });
    (address, asked)
}

/// An answer.
pub(in crate::telemetry) fn http(status: &str, head: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{head}connection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// Leads every name to this address.
pub(in crate::telemetry) struct To(pub SocketAddr);

impl Resolve for To {
    fn resolve(&self, _: Name) -> Resolving {
        let to = self.0;
        Box::pin(async move { Ok(Box::new(std::iter::once(to)) as Addrs) })
    }
}

/// A certificate for `name`, signed by itself, as PEM; and a server's configuration with it.
pub(in crate::telemetry) fn certified(name: &str) -> (String, rustls::ServerConfig) {
    use rustls::pki_types::PrivateKeyDer;
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    (made.cert.pem(), config)
}
