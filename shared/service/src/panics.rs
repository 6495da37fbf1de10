//! Panics: a metric counts them, and the log has one line for each.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    panic::{self, PanicHookInfo},
    thread,
};

/// Counts and logs every panic of the process from now on. The former hook, which prints several lines, runs only if the
/// log does not show errors.
pub fn count() {
    let former = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        metrics::counter!("panics_total").increment(1);
        if tracing::enabled!(tracing::Level::ERROR) {
            log(info);
        } else {
            former(info);
        }
    }));
}

fn log(info: &PanicHookInfo<'_>) {
    let message = info.payload_as_str().unwrap_or("not a text");
    let location = info.location().map(ToString::to_string);
    let thread = thread::current();
    let thread = thread.name();
    // Taken only if RUST_BACKTRACE is set.
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    tracing::error!(panic = message, location, thread, backtrace, "a panic");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io,
        sync::{
            Arc, Mutex,
            atomic::{AtomicUsize, Ordering},
        },
    };
    use tracing_subscriber::fmt::MakeWriter;

    /// Collects the lines of a log.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Lines {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    // One test, because the hook is the process's.
    #[test]
    fn a_panic_is_counted_and_logged_in_one_line() {
        static FORMER: AtomicUsize = AtomicUsize::new(0);
        let before = panic::take_hook();
        panic::set_hook(Box::new(|_| {
            FORMER.fetch_add(1, Ordering::Relaxed);
        }));
        count();
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        let lines = Lines::default();
        let log = tracing_subscriber::fmt().with_ansi(false).with_writer(lines.clone()).finish();
        metrics::with_local_recorder(&recorder, || {
            tracing::subscriber::with_default(log, || {
                panic::catch_unwind(|| panic!("out of\nluck")).unwrap_err();
            });
            let silent =
                tracing_subscriber::fmt().with_max_level(tracing::level_filters::LevelFilter::OFF).finish();
            tracing::subscriber::with_default(silent, || {
                panic::catch_unwind(|| panic!("unseen")).unwrap_err();
            });
        });
        panic::set_hook(before);
        let text = recorder.handle().render();
        assert!(text.contains("panics_total 2"), "{text}");
        let lines = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert_eq!(lines.lines().count(), 1, "{lines}");
        assert!(lines.contains(r"out of\nluck") && lines.contains("panics.rs:"), "{lines}");
        assert_eq!(FORMER.load(Ordering::Relaxed), 1, "the former hook runs only without a log");
    }
}
