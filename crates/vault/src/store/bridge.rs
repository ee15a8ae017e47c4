//! From callers that are plain threads to a store that is async.

use std::future::Future;
use std::sync::mpsc;

use futures::executor::block_on;
use tokio::runtime::{Builder, Runtime};

/// A runtime of the vault's own, on which store calls run while the calling thread waits.
///
/// It is never entered by the caller: a walk may run on a plain thread or on a thread of somebody's tokio
/// program, where blocking on a future directly would panic.
#[derive(Debug)]
pub(crate) struct Bridge {
    /// `None` when calls run on the calling thread. Taken by `drop`: a runtime must not be dropped where blocking
    /// is forbidden.
    runtime: Option<Runtime>,
}

/// A call under way; [`wait`](Self::wait) gives its answer.
#[derive(Debug)]
pub(crate) struct Pending<T> {
    answer: mpsc::Receiver<T>,
}

impl<T> Pending<T> {
    /// Blocks until the call is answered; `None` when the runtime went away under it.
    pub(crate) fn wait(self) -> Option<T> {
        self.answer.recv().ok()
    }
}

impl Bridge {
    pub(crate) fn new() -> std::io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(8)
            .thread_name("vmkeep-store")
            .enable_all()
            .build()?;
        Ok(Self { runtime: Some(runtime) })
    }

    /// No runtime: every call is over, on the calling thread, when it has been started. So a thread has one call
    /// under way at a time, which a simulation needs; only for stores that need no runtime either.
    pub(crate) fn inline() -> Self {
        Self { runtime: None }
    }

    /// Starts a call.
    pub(crate) fn start<T: Send + 'static>(
        &self,
        call: impl Future<Output = T> + Send + 'static,
    ) -> Pending<T> {
        let (sender, answer) = mpsc::sync_channel(1);
        // A caller that no longer waits has dropped its end.
        let call = async move { drop(sender.send(call.await)) };
        match &self.runtime {
            Some(runtime) => drop(runtime.spawn(call)),
            None => block_on(call),
        }
        Pending { answer }
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
