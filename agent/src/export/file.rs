//! A file as a destination: one OTLP/JSON `TracesData` object per line.
//!
//! Created at the start with mode 0600 (the traces of a machine are nobody else's business; a file that is
//! there already keeps its mode), always appended to. A line is written as a whole: if a write fails
//! half-way, what it wrote is taken back where the file allows it, and else ends with a line feed,
//! so that the next line is not spoilt.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::io::AsyncWriteExt as _;

use super::StartError;
use super::answer::{Answer, harmless};

/// A file that is open for appending.
#[derive(Debug)]
pub struct FileSink {
    file: tokio::fs::File,
    /// A write failed, and its beginning may be in the file.
    torn: bool,
    /// It can be cut back to an earlier length.
    regular: bool,
}

impl FileSink {
    /// Opens or creates the file. A pipe is opened for writing only, and must have a reader.
    pub fn open(path: &Path) -> Result<Self, StartError> {
        let failed = |source| StartError::File { path: path.to_owned(), source };
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            // A pipe without a reader is an error at once, not a wait for ever.
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(path)
            .map_err(failed)?;
        let flags = fcntl(&file, FcntlArg::F_GETFL).map_err(|errno| failed(errno.into()))?;
        let blocking = OFlag::from_bits_retain(flags) - OFlag::O_NONBLOCK;
        fcntl(&file, FcntlArg::F_SETFL(blocking)).map_err(|errno| failed(errno.into()))?;
        let metadata = file.metadata().map_err(failed)?;
        let regular = metadata.is_file();
        let torn = regular && metadata.len() > 0 && !ends_with_line_feed(path).unwrap_or(true);
        Ok(Self { file: tokio::fs::File::from_std(file), torn, regular })
    }

    /// Appends a message as a line, and hands it to the kernel before it returns.
    pub async fn send(&mut self, message: Bytes) -> Answer {
        match self.append(&message).await {
            Ok(()) => Answer::Accepted { rejected: 0, message: String::new() },
            Err(error) => Answer::unreached(match error.raw_os_error() {
                Some(_) => error.kind().to_string(),
                None => harmless(&error.to_string()),
            }),
        }
    }

    async fn append(&mut self, message: &[u8]) -> io::Result<()> {
        let mut line = Vec::with_capacity(message.len() + 2);
        if self.torn {
            line.push(b'\n');
        }
        line.extend_from_slice(message);
        line.push(b'\n');
        let before = match self.regular {
            true => Some(self.file.metadata().await?.len()),
            false => None,
        };
        // Until proven otherwise: this future may be dropped half-way.
        let was_torn = std::mem::replace(&mut self.torn, true);
        let written = match self.file.write_all(&line).await {
            Ok(()) => self.file.flush().await,
            Err(error) => Err(error),
        };
        match (&written, before) {
            (Ok(()), _) => self.torn = false,
            (Err(_), Some(length)) if self.file.set_len(length).await.is_ok() => self.torn = was_torn,
            (Err(_), _) => {}
        }
        written
    }
}

fn ends_with_line_feed(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// A path as a sentence shows it.
pub fn shown(path: &Path) -> String {
    harmless(&PathBuf::from(path).display().to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// A directory of its own, removed at the end.
    struct Directory(PathBuf);

    impl Directory {
        fn new() -> Self {
            static NUMBER: AtomicU32 = AtomicU32::new(0);
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("spandrel-file-{}-{number}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn append(path: &Path, lines: &[&'static str]) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut sink = FileSink::open(path).unwrap();
            for line in lines {
                let answer = sink.send(Bytes::from_static(line.as_bytes())).await;
                assert!(matches!(answer, Answer::Accepted { .. }), "{answer:?}");
            }
        });
    }

    #[test]
    fn a_new_file_is_for_its_owner_only_and_an_old_one_is_appended_to() {
        let directory = Directory::new();
        let path = directory.0.join("traces.jsonl");
        append(&path, &["{1}", "{2}"]);
        append(&path, &["{3}"]);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{1}\n{2}\n{3}\n");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_line_that_an_earlier_run_left_unfinished_does_not_spoil_the_next() {
        let directory = Directory::new();
        let path = directory.0.join("traces.jsonl");
        std::fs::write(&path, "{\"resou").unwrap();
        append(&path, &["{1}", "{2}"]);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"resou\n{1}\n{2}\n");
    }

    #[test]
    fn a_file_that_cannot_be_created_is_told_with_its_path() {
        let directory = Directory::new();
        for (path, why) in [("missing/traces.jsonl", "No such file or directory"), ("", "Is a directory")] {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let _inside = runtime.enter();
            let error = FileSink::open(&directory.0.join(path)).unwrap_err().to_string();
            assert!(error.starts_with("cannot create ") && error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_pipe_without_a_reader_is_an_error_and_not_a_wait() {
        let directory = Directory::new();
        let path = directory.0.join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(FileSink::open(&path).is_err());
    }

    #[test]
    fn a_full_disk_is_tried_again() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut sink = FileSink::open(Path::new("/dev/full")).unwrap();
            let answer = sink.send(Bytes::from_static(b"{}")).await;
            let Answer::Retry { reason, .. } = answer else { panic!("{answer:?}") };
            assert_eq!(reason, "no storage space");
        });
    }
}
