//! A thread that answers questions, as the pipeline holds it: both wait in queues with a bound. It must never hold up whoever
//! asks.

use std::fmt;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// The thread; it ends with this.
pub struct Answering<Question, Answer> {
    questions: SyncSender<Question>,
    answers: Receiver<Answer>,
}

// By hand: an answer may hold secrets, and need not be printable.
impl<Question, Answer> fmt::Debug for Answering<Question, Answer> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answering").finish_non_exhaustive()
    }
}

impl<Question: Send + 'static, Answer: Send + 'static> Answering<Question, Answer> {
    /// Starts a thread of this name with room for so many questions, and as many answers, that wait. `work` is done when no
    /// question can come any more, or nobody takes an answer.
    pub fn start(
        name: &str,
        room: usize,
        work: impl FnOnce(Receiver<Question>, SyncSender<Answer>) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (questions, asked) = sync_channel(room);
        let (answer, answers) = sync_channel(room);
        std::thread::Builder::new().name(name.to_owned()).spawn(move || work(asked, answer))?;
        Ok(Self { questions, answers })
    }

    /// False if there is no room for the question.
    pub fn ask(&self, question: Question) -> bool {
        self.questions.try_send(question).is_ok()
    }

    /// The next answer that is there.
    pub fn answer(&self) -> Option<Answer> {
        self.answers.try_recv().ok()
    }
}
