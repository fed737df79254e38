//! A connection that sends what is small in one piece.
//!
//! The head and the body of a message stand in memory apart. To tell the system of two pieces
//! takes longer than to copy a few hundred bytes together before; what is larger is told of as it
//! is.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use hyper::rt::{Read, ReadBufCursor, Write};

/// See the file.
#[derive(Debug)]
pub(crate) struct Joined<T>(pub(crate) T);

/// What counts as small.
const SMALL: usize = 2048;

impl<T: Read + Unpin> Read for Joined<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl<T: Write + Unpin> Write for Joined<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
        if bytes > SMALL {
            return Pin::new(&mut self.0).poll_write_vectored(context, pieces);
        }
        let mut joined = [0; SMALL];
        let mut end = 0;
        for piece in pieces {
            joined[end..end + piece.len()].copy_from_slice(piece);
            end += piece.len();
        }
        Pin::new(&mut self.0).poll_write(context, &joined[..end])
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, duplex};

    use super::*;

    #[tokio::test]
    async fn pieces_arrive_in_their_order_whatever_their_sizes() {
        for sizes in [[3, 5], [0, 7], [SMALL, 0], [SMALL, 1], [10, 3 * SMALL]] {
            let (ours, mut theirs) = duplex(4 * SMALL);
            let mut joined = Joined(TokioIo::new(ours));
            let [one, two] = sizes;
            let all: Vec<u8> = (0..one + two).map(|at| at as u8).collect();
            let mut sent = 0;
            while sent < all.len() {
                let split = one.max(sent);
                let pieces = [IoSlice::new(&all[sent..split]), IoSlice::new(&all[split..])];
                let write = |context: &mut Context<'_>| {
                    Pin::new(&mut joined).poll_write_vectored(context, &pieces)
                };
                sent += poll_fn(write).await.expect("there is room");
            }
            drop(joined);
            let mut got = Vec::new();
            theirs.read_to_end(&mut got).await.expect("all of it");
            assert!(got == all, "{sizes:?}");
        }
    }
}
