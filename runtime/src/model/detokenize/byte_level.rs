//! Byte-level tokens: each character of a token stands for one byte, printable ones for themselves
//! and the others for characters from U+0100 on; the bytes of all tokens together are UTF-8.

/// Bytes that may still become a character: at most three.
#[derive(Debug, Default)]
pub(super) struct ByteLevel {
    held: Vec<u8>,
}

impl ByteLevel {
    /// Text that is certain with this token.
    pub(super) fn push(&mut self, token: &str) -> String {
        self.held.extend(token_bytes(token));
        let mut text = String::new();
        let mut certain = 0;
        for chunk in self.held.utf8_chunks() {
            text.push_str(chunk.valid());
            certain += chunk.valid().len();
            let invalid = chunk.invalid();
            if invalid.is_empty() {
                continue;
            }
            // The last bytes may be the beginning of a character that the next token completes.
            let is_last = certain + invalid.len() == self.held.len();
            if is_last && is_incomplete(invalid) {
                break;
            }
            text.push(char::REPLACEMENT_CHARACTER);
            certain += invalid.len();
        }
        self.held.drain(..certain);
        text
    }

    /// What is left when no token follows.
    pub(super) fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.held)).into_owned()
    }
}

fn is_incomplete(bytes: &[u8]) -> bool {
    matches!(std::str::from_utf8(bytes), Err(error) if error.error_len().is_none())
}

/// A token's bytes. One with a character that stands for no byte (an added token) is its own text.
pub(super) fn token_bytes(token: &str) -> Vec<u8> {
    let bytes: Option<Vec<u8>> = token.chars().map(byte_of).collect();
    bytes.unwrap_or_else(|| token.as_bytes().to_vec())
}

/// The byte that a character stands for: the inverse of GPT-2's table, in which bytes that are
/// printable in Latin-1 are themselves and the rest are numbered from U+0100 in order.
fn byte_of(character: char) -> Option<u8> {
    match u32::from(character) {
        code @ (0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF) => Some(code as u8),
        code @ 0x100..=0x120 => Some((code - 0x100) as u8),
        code @ 0x121..=0x142 => Some((code - 0x121 + 0x7F) as u8),
        0x143 => Some(0xAD),
        _ => None,
    }
}
