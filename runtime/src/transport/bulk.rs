//! Tensors for device threads: blocking handles that know nothing of async.
//!
//! A device thread must neither hold a runtime nor wait for one. It gets a [`BulkSender`] or a
//! [`BulkReceiver`], made from a bounded channel when both ends live in this process
//! ([`bulk_pair`]) or from a [`Stream`] ([`bulk_over`]), where two pump tasks stand between the
//! stream and the queues. Both look the same to the thread: tensors arrive in order, a wrong one
//! is an error, and whatever ends the other side wakes a blocked call at once.
//!
//! Waiting threads spin for [`SPIN`] and then park: a step's tensors come a few microseconds apart,
//! but a thread that spun for longer would take a core from the kernels it waits for.

mod queue;

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{runtime::Handle, task::JoinHandle};

use self::queue::{Queue, Tensor};
use super::{FrameReceiver, FrameSender, LinkError, Stream};
use crate::{id::StepId, wire::kv::TensorHeader};

pub use self::queue::SPIN;

/// How long a send waits for room before it fails, unless told otherwise: a step that is this late
/// has failed by its own deadline long before.
pub const SEND_DEADLINE: Duration = Duration::from_secs(30);

/// The blocking end that sends tensors. Dropping it without [`BulkSender::finish`] is an abort: the
/// receiver gets [`LinkError::Reset`].
pub struct BulkSender {
    queue: Arc<Queue>,
    deadline: Duration,
    finished: bool,
    /// Moves the queue's content onto a stream; none for a pair.
    pump: Option<Pump>,
}

/// The blocking end that receives tensors. Dropping it fails the sender's next send.
pub struct BulkReceiver {
    queue: Arc<Queue>,
    /// Moves a stream's content into the queue; none for a pair.
    _pump: Option<Pump>,
}

/// Two connected ends in this process. `depth` is how many tensors may wait between them: the steps
/// in flight + 1 for activations (each step sends one, and one more may be on its way while the
/// receiver still holds the last), the ranks of a stage for collectives.
pub fn bulk_pair(depth: usize) -> (BulkSender, BulkReceiver) {
    let queue = Arc::new(Queue::new(depth));
    (BulkSender::new(queue.clone(), None), BulkReceiver { queue, _pump: None })
}

/// Both directions of a bulk conversation for device threads; drop the end that is not used.
/// `depth` bounds each direction as in [`bulk_pair`], beside what the stream's window holds.
pub fn bulk_over(stream: Stream, depth: usize, runtime: &Handle) -> (BulkSender, BulkReceiver) {
    let Stream { sender, receiver } = stream;
    let (out, back) = (Arc::new(Queue::new(depth)), Arc::new(Queue::new(depth)));
    let up = Pump(runtime.spawn(pump_out(out.clone(), sender)));
    let down = Pump(runtime.spawn(pump_in(back.clone(), receiver)));
    (BulkSender::new(out, Some(up)), BulkReceiver { queue: back, _pump: Some(down) })
}

/// A task that ends with its owner.
struct Pump(JoinHandle<()>);

// === impl BulkSender ===

impl BulkSender {
    fn new(queue: Arc<Queue>, pump: Option<Pump>) -> Self {
        Self { queue, deadline: SEND_DEADLINE, finished: false, pump }
    }

    /// The same sender with another limit for waiting until there is room.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Queues a tensor; blocks while the queue is full. Never copies the bytes.
    ///
    /// # Errors
    /// [`LinkError::Malformed`] if header and bytes do not match; else whatever ended the other
    /// side, or [`LinkError::Deadline`]. After an error of the other side every send fails.
    pub fn send(&mut self, header: TensorHeader, bytes: Bytes) -> Result<(), LinkError> {
        matching(&header, &bytes)?;
        self.queue.push(Tensor { header, bytes }, self.deadline)
    }

    /// Ends in order: blocks until everything queued has been handed on.
    ///
    /// # Errors
    /// [`LinkError`] if it could not be within the send deadline; then it is an abort.
    pub fn finish(mut self) -> Result<(), LinkError> {
        self.queue.finish();
        if self.pump.is_some() {
            self.queue.wait_handed_on(self.deadline)?;
        }
        self.finished = true;
        Ok(())
    }
}

impl Drop for BulkSender {
    fn drop(&mut self) {
        if !self.finished {
            self.queue.fail(LinkError::Reset);
        }
        // The pump, if there is one, is aborted with its stream: the peer sees a reset.
        self.pump = None;
    }
}

// === impl BulkReceiver ===

impl BulkReceiver {
    /// The next tensor, which must be the `index`th of `step`. Blocks until it is there, the other
    /// side is over or `deadline` has passed.
    ///
    /// # Errors
    /// [`LinkError::Malformed`] if it is another one: computing with it would be worse than failing
    /// the step. [`LinkError::Ended`] after the sender's finish; else what ended the other side.
    pub fn receive(
        &mut self,
        step: StepId,
        index: u32,
        deadline: Duration,
    ) -> Result<(TensorHeader, Bytes), LinkError> {
        let (header, bytes) = self.receive_any(deadline)?;
        if header.step != step || header.index != index {
            let (other, at) = (header.step, header.index);
            let why = format!("tensor {at} of step {other} came instead of {index} of step {step}");
            return Err(LinkError::Malformed(why));
        }
        Ok((header, bytes))
    }

    /// The next tensor, whichever it is.
    ///
    /// # Errors
    /// As [`BulkReceiver::receive`].
    pub fn receive_any(&mut self, deadline: Duration) -> Result<(TensorHeader, Bytes), LinkError> {
        let Tensor { header, bytes } = self.queue.pop(deadline)?;
        Ok((header, bytes))
    }
}

impl Drop for BulkReceiver {
    fn drop(&mut self) {
        self.queue.fail(LinkError::Reset);
    }
}

// === the pumps ===

/// Queue to stream. Ends when the queue is finished and empty, or with the first error of either.
async fn pump_out(queue: Arc<Queue>, mut sender: FrameSender) {
    loop {
        let next = tokio::select! {
            biased;
            next = queue.pop_async() => next,
            () = sender.stopped() => Err(LinkError::Reset),
        };
        let sent = match next {
            // Window and liveness bound the wait; a thread that waits for room has its own limit.
            Ok(Some(Tensor { header, bytes })) => {
                sender.send_with_tensor(&header, bytes, SEND_DEADLINE).await
            }
            Ok(None) => {
                let ended = sender.finish();
                return queue.handed_on(ended.err());
            }
            Err(error) => Err(error),
        };
        if let Err(error) = sent {
            return queue.handed_on(Some(error));
        }
    }
}

/// Stream to queue.
async fn pump_in(queue: Arc<Queue>, mut receiver: FrameReceiver) {
    loop {
        let next = tokio::select! {
            biased;
            () = queue.over_async() => return,
            next = receiver.next_with_tensor::<TensorHeader>() => next,
        };
        let pushed = match next {
            Ok(Some((header, bytes))) => match matching(&header, &bytes) {
                Ok(()) => queue.push_async(Tensor { header, bytes }).await,
                Err(error) => Err(error),
            },
            Ok(None) => return queue.finish(),
            Err(error) => Err(error),
        };
        if let Err(error) = pushed {
            return queue.fail(error);
        }
    }
}

/// Refuses a header that tells another length than its bytes have.
fn matching(header: &TensorHeader, bytes: &Bytes) -> Result<(), LinkError> {
    let told = u64::from(header.rows) * u64::from(header.columns) * header.dtype.size() as u64;
    if told == bytes.len() as u64 {
        return Ok(());
    }
    let rows = format!("{} x {} of {:?}", header.rows, header.columns, header.dtype);
    Err(LinkError::Malformed(format!("{} bytes for a tensor of {rows}", bytes.len())))
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl fmt::Debug for BulkSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BulkSender")
    }
}

impl fmt::Debug for BulkReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BulkReceiver")
    }
}

#[cfg(test)]
mod tests;
