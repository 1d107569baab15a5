//! Who trusts whom.

use std::path::Path;
use std::process::Command;

use openworkflow::otel::export::{Protocol, Signal};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use crate::faults::{BOTH, ITEMS_PER_RUN, builder, traded};
use crate::receiver::Receiver;

/// A certificate authority's certificate, and the paths of a certificate of its for 127.0.0.1.
fn certificates(folder: &Path) -> (String, [String; 2]) {
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = authority.self_signed(&authority_key).unwrap();
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().unwrap();
    let mut server = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    // Named as its issuer it would pass for one that signed itself.
    server
        .distinguished_name
        .push(DnType::CommonName, "127.0.0.1");
    let server = server.signed_by(&key, &issuer).unwrap();
    let paths = [
        ("server.pem", server.pem()),
        ("key.pem", key.serialize_pem()),
    ];
    let paths = paths.map(|(name, pem)| {
        let path = folder.join(name);
        std::fs::write(&path, pem).unwrap();
        path.to_str().unwrap().to_owned()
    });
    (certificate.pem(), paths)
}

#[tokio::test]
async fn certificates_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let (stranger, _) = certificates(folder.path());
    let (authority, [certificate, key]) = certificates(folder.path());
    let receiver = Receiver::with(&["--certificate", &certificate, "--key", &key]);
    for protocol in BOTH {
        let port = receiver.port(protocol);
        let endpoint = format!("https://127.0.0.1:{port}");
        let trusting = builder(protocol, &endpoint, Signal::Traces).certificates(authority.clone());
        assert_eq!(
            traded(trusting, Signal::Traces).await.stats.exported,
            ITEMS_PER_RUN
        );

        let wary = builder(protocol, &endpoint, Signal::Traces).certificates(stranger.clone());
        let report = traded(wary, Signal::Traces).await;
        assert!(report.reason.contains("certificate"), "{}", report.reason);
        assert_eq!(report.stats.undelivered, ITEMS_PER_RUN);

        let plain = builder(
            protocol,
            &format!("http://127.0.0.1:{port}"),
            Signal::Traces,
        );
        assert_eq!(
            traded(plain, Signal::Traces).await.stats.lost(),
            ITEMS_PER_RUN
        );
    }
    let no_pem = builder(Protocol::Grpc, "https://localhost", Signal::Traces).certificates("none");
    let error = no_pem.build().unwrap_err().to_string();
    assert!(error.starts_with("the certificates to trust"), "{error}");
}

#[tokio::test]
async fn a_receiver_may_ask_for_a_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, [certificate, key]) = certificates(folder.path());
    let trusted = folder.path().join("authority.pem");
    std::fs::write(&trusted, &authority).unwrap();
    let receiver = Receiver::with(&[
        "--certificate",
        &certificate,
        "--key",
        &key,
        "--client-authority",
        trusted.to_str().unwrap(),
    ]);
    // The one of the server does for a client.
    let [chain, key] = [certificate, key].map(|path| std::fs::read(path).unwrap());
    for protocol in BOTH {
        let endpoint = format!("https://127.0.0.1:{}", receiver.port(protocol));
        let unknown = builder(protocol, &endpoint, Signal::Traces).certificates(authority.clone());
        let known = builder(protocol, &endpoint, Signal::Traces)
            .certificates(authority.clone())
            .client_certificate(chain.clone(), key.clone());
        let report = traded(known, Signal::Traces).await;
        assert_eq!(report.stats.exported, ITEMS_PER_RUN, "{}", report.reason);
        assert_eq!(
            traded(unknown, Signal::Traces).await.stats.lost(),
            ITEMS_PER_RUN
        );
    }
}

/// Those of this system are in the file that the variable names.
#[test]
fn the_systems_certificates_are_trusted() {
    let folder = tempfile::tempdir().unwrap();
    let (stranger, _) = certificates(folder.path());
    let (authority, [certificate, key]) = certificates(folder.path());
    let receiver = Receiver::with(&["--certificate", &certificate, "--key", &key]);
    let trusted = folder.path().join("system.pem");
    for protocol in BOTH {
        for (pem, accepted) in [(&authority, true), (&stranger, false)] {
            std::fs::write(&trusted, pem).unwrap();
            let output = Command::new(env!("CARGO_BIN_EXE_export_probe"))
                .arg(format!("https://127.0.0.1:{}", receiver.port(protocol)))
                .args((protocol == Protocol::Grpc).then_some("grpc"))
                .env("SSL_CERT_FILE", &trusted)
                .env_remove("SSL_CERT_DIR")
                .output()
                .unwrap();
            let errors = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.success(), accepted, "{errors}");
        }
    }
}
