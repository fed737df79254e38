//! Frames over a child's standard input and output: a little-endian u32 length, then the message.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use troupe_runtime::transport::{DecodeMessage, EncodeMessage, LinkError};

/// Writes one message.
///
/// # Errors
/// [`LinkError::Closed`] if the other side is gone.
pub async fn write<T: EncodeMessage>(
    to: &mut (impl AsyncWrite + Unpin),
    message: &T,
) -> Result<(), LinkError> {
    let bytes = message.encode()?;
    // The encoding is bounded far below 4 GiB.
    let length = (bytes.len() as u32).to_le_bytes();
    let sent = async {
        to.write_all(&length).await?;
        to.write_all(&bytes).await?;
        to.flush().await
    };
    sent.await.map_err(closed)
}

/// Reads one message; `None` when the other side has ended between messages.
///
/// # Errors
/// [`LinkError`] if it ended within one, or sent what is none.
pub async fn read<T: DecodeMessage>(
    from: &mut (impl AsyncRead + Unpin),
) -> Result<Option<T>, LinkError> {
    let mut length = [0; 4];
    match from.read_exact(&mut length).await {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(closed(error)),
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_BYTES {
        return Err(LinkError::Malformed(format!("{length} bytes, at most {MAX_BYTES} are sent")));
    }
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes).await.map_err(closed)?;
    Ok(Some(T::decode(&bytes)?))
}

fn closed(error: std::io::Error) -> LinkError {
    LinkError::Closed { peer: "the pipe".into(), why: error.to_string() }
}

/// A launch holds a group's record, which is small.
const MAX_BYTES: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use troupe_runtime::wire::member::MemberToNode;

    use super::*;

    #[tokio::test]
    async fn what_was_written_is_read_and_garbage_is_an_error() {
        let mut bytes = Vec::new();
        let said = MemberToNode::Listening("quic://127.0.0.1:1".into());
        write(&mut bytes, &said).await.expect("written");
        let mut from = bytes.as_slice();
        assert_eq!(read::<MemberToNode>(&mut from).await.expect("read"), Some(said));
        assert_eq!(read::<MemberToNode>(&mut from).await.expect("the end"), None);
        let mut garbage = &[255_u8; 16][..];
        assert!(read::<MemberToNode>(&mut garbage).await.is_err());
    }
}
