//! Join tokens: `troupe1.<SHA-256 of the CA's certificate>.<id>.<secret>`.
//!
//! The pin lets a newcomer know the control host, the secret lets the control host know the
//! newcomer, and the id is what people call the token by. The pin is what
//! `openssl x509 -in ca.pem -outform der | sha256sum` prints.

use std::{fmt, str::FromStr};

use rustls_pki_types::CertificateDer;

use crate::id::Digest;

/// The SHA-256 of a CA's certificate.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Pin([u8; 32]);

/// A join token. Its `Debug` keeps the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// Which CA signs for the cluster.
    pub pin: Pin,
    /// What people call it by.
    pub id: String,
    /// What makes it one: 32 random characters.
    pub secret: String,
}

/// What a token begins with; the number is the format's.
const PREFIX: &str = "troupe1";
/// Characters of an id: a thousand tokens meet once in a million clusters.
const ID_CHARACTERS: usize = 10;
/// Characters of a secret: 160 bits.
const SECRET_CHARACTERS: usize = 32;
/// Easy to read aloud and to select with a double click; 5 bits each.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

// === impl Pin ===

impl Pin {
    /// The pin of a CA's certificate.
    pub fn of(ca: &CertificateDer<'_>) -> Self {
        let suite = rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
        let mut pin = [0; 32];
        if let rustls::SupportedCipherSuite::Tls13(suite) = suite {
            // That suite's hash is SHA-256, whose output is 32 bytes long.
            pin.copy_from_slice(suite.common.hash_provider.hash(ca).as_ref());
        }
        Self(pin)
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pin({self})")
    }
}

impl FromStr for Pin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // Hexadecimal of 32 bytes; `Hash` is only its parser.
        blake3::Hash::from_hex(text)
            .map(|bytes| Self(*bytes.as_bytes()))
            .map_err(|_| format!("`{text}` is no SHA-256, which has 64 hexadecimal digits"))
    }
}

// === impl JoinToken ===

impl JoinToken {
    /// A new token of the CA with this pin.
    pub fn generate(pin: Pin) -> Self {
        Self { pin, id: random(ID_CHARACTERS), secret: random(SECRET_CHARACTERS) }
    }

    /// What is stored of a secret. It is long and random, so a fast hash is as good as a slow one.
    pub fn hash(secret: &str) -> Digest {
        Digest::of(secret.as_bytes())
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}.{}.{}.{}", self.pin, self.id, self.secret)
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({})", self.id)
    }
}

impl FromStr for JoinToken {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // Not repeated in the error: what is nearly a token may be a secret.
        let wrong = |why: &str| {
            format!(
                "this is no join token ({why}); one is {PREFIX}.<CA>.<id>.<secret>, as `troupe \
                 token create` prints it"
            )
        };
        let parts: Vec<&str> = text.trim().split('.').collect();
        let [prefix, pin, id, secret] = parts[..] else {
            return Err(wrong(&format!("it has {} parts", parts.len())));
        };
        if prefix != PREFIX {
            return Err(wrong(&format!("it begins with `{prefix}`")));
        }
        let word = |text: &str| !text.is_empty() && text.bytes().all(|b| ALPHABET.contains(&b));
        if !word(id) || !word(secret) {
            return Err(wrong("its id or secret has characters that no token has"));
        }
        let pin = pin.parse().map_err(|why: String| wrong(&why))?;
        Ok(Self { pin, id: id.into(), secret: secret.into() })
    }
}

fn random(characters: usize) -> String {
    let byte = |random: u8| char::from(ALPHABET[usize::from(random % 32)]);
    (0..characters).map(|_| byte(rand::random())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin() -> Pin {
        Pin::of(&CertificateDer::from(b"a CA".to_vec()))
    }

    #[test]
    fn tokens_read_back_and_differ() {
        let (a, b) = (JoinToken::generate(pin()), JoinToken::generate(pin()));
        assert_eq!(a.to_string().parse(), Ok(a.clone()));
        assert_eq!(format!(" {a}\n").parse(), Ok(a.clone()));
        assert!(a.id != b.id && a.secret != b.secret);
        assert_eq!(a.secret.len(), 32);
        assert!(!format!("{a:?}").contains(&a.secret));
    }

    #[test]
    fn the_pin_is_the_sha256_of_the_certificate() {
        // printf 'a CA' | sha256sum
        let known = "7b30aa35f85a70cbeb3b827a3238b761363b5f07fc81bc28944779dd603ba242";
        assert_eq!(pin().to_string(), known);
        assert_eq!(known.parse(), Ok(pin()));
    }

    #[test]
    fn what_is_no_token_is_refused_and_not_repeated() {
        let good = JoinToken::generate(pin()).to_string();
        for (bad, why) in [
            ("", "1 parts"),
            ("K10abc::server:secret", "1 parts"),
            (&good.replacen("troupe1", "troupe2", 1), "begins with `troupe2`"),
            (&good.replacen('.', ".0", 1), "SHA-256"),
            (&format!("{good}!"), "characters"),
        ] {
            let error = bad.parse::<JoinToken>().expect_err(bad);
            assert!(error.contains(why), "{error}");
            assert!(bad.is_empty() || !error.contains(bad), "{error}");
        }
    }
}
