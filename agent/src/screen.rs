//! The terminal's own thread: a terminal that is slow, or stopped with ^S, must not hold up the tracer.
//!
//! What it has no room for is counted, never waited for.

use std::io::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock;
use crate::export::terminal::{self, Limits, Style, Terminal};
use crate::stitch::Output;

/// Outputs that wait for the terminal: some seconds of 10,000 spans a second.
const WAITING: usize = 65_536;

/// Between two looks at what is finished.
const POLL: Duration = Duration::from_millis(100);

/// A thread that prints.
pub struct Screen {
    outputs: SyncSender<Output>,
    ledger: Arc<Mutex<terminal::Ledger>>,
    refused: AtomicU64,
    thread: JoinHandle<()>,
}

impl Screen {
    /// Starts it.
    pub fn start() -> io::Result<Self> {
        let (outputs, received) = sync_channel(WAITING);
        let ledger = Arc::new(Mutex::new(terminal::Ledger::default()));
        let published = Arc::clone(&ledger);
        let thread = std::thread::Builder::new()
            .name("spandrel-screen".to_owned())
            .spawn(move || run(&received, &published))?;
        Ok(Self { outputs, ledger, refused: AtomicU64::new(0), thread })
    }

    /// Shows what there is room for.
    pub fn show(&self, output: Output) {
        let ended = matches!(output, Output::Ended(_));
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = self.outputs.try_send(output)
            && ended
        {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The books; spans for which there was no room count as unwritten.
    pub fn ledger(&self) -> terminal::Ledger {
        let mut ledger = *self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = self.refused.load(Ordering::Relaxed);
        ledger.ended += refused;
        ledger.unwritten += refused;
        ledger
    }

    /// Prints what is left.
    pub fn finish(self) -> terminal::Ledger {
        let Self { outputs, ledger, refused, thread } = self;
        drop(outputs);
        // Its panic, if any, has been printed.
        let _ = thread.join();
        let mut ledger = *ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = refused.load(Ordering::Relaxed);
        ledger.ended += refused;
        ledger.unwritten += refused;
        ledger
    }
}

fn run(outputs: &Receiver<Output>, published: &Mutex<terminal::Ledger>) {
    let mut terminal = Terminal::new(Style::of_stdout(), Limits::default());
    let mut polled = clock::monotonic();
    loop {
        let received = outputs.recv_timeout(POLL);
        let now = clock::monotonic();
        let mut out = io::BufWriter::new(io::stdout().lock());
        // A terminal that is gone is in its ledger as `unwritten`; the tracer goes on.
        let _ = match received {
            Ok(Output::Bound { trace, span }) => {
                terminal.bound(trace, span, now);
                Ok(())
            }
            Ok(Output::Abandoned { trace, span }) => {
                terminal.abandoned(trace, span, now);
                Ok(())
            }
            Ok(Output::Ended(span)) => terminal.ended(span, now, &mut out),
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Err(RecvTimeoutError::Disconnected) => {
                let _ = terminal.finish(now, &mut out).and_then(|()| out.flush());
                *published.lock().unwrap_or_else(PoisonError::into_inner) = terminal.ledger();
                return;
            }
        };
        if now.since(polled) >= POLL.as_nanos() as u64 {
            polled = now;
            terminal.set_width(terminal::stdout_width());
            let _ = terminal.poll(now, &mut out).and_then(|()| out.flush());
            *published.lock().unwrap_or_else(PoisonError::into_inner) = terminal.ledger();
        }
        let _ = out.flush();
    }
}
