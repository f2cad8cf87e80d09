//! The conversion worker: parses what tenants supply, and can do nothing else.
//!
//! Its only argument is the job, its only output the outcome, both JSON (`husk_images::worker`). Before it
//! reads a byte of input it gives up every right that it does not need.

mod confine;
mod sys;

use std::fs::File;
use std::io::{self, Write};
use std::process::ExitCode;

use husk_images::convert::{ConvertError, convert_layer, unpack};
use husk_images::disk::qcow2::{FilePiece, convert_qcow2};
use husk_images::image::{LayerInput, build_image};
use husk_images::worker::{Job, Outcome, Task};
use husk_jail::JailError;

fn main() -> ExitCode {
    let job = match std::env::args().nth(1).map(|job| serde_json::from_str::<Job>(&job)) {
        Some(Ok(job)) => job,
        Some(Err(error)) => return usage(&format!("the job is invalid: {error}")),
        None => return usage("the job is missing"),
    };
    let outcome = match prepare(&job) {
        Ok(files) => run(&job, files).unwrap_or_else(Outcome::Failed),
        Err(error) => {
            let message = format!("preparing the conversion worker: {error}");
            Outcome::Failed(ConvertError::Io { message, code: error.source.raw_os_error() })
        }
    };
    match serde_json::to_vec(&outcome).map_err(io::Error::from).and_then(|json| io::stdout().write_all(&json))
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn usage(problem: &str) -> ExitCode {
    eprintln!("husk-convert: {problem}; husk starts this program itself");
    ExitCode::from(2)
}

/// Takes the job's descriptors and gives up everything else.
fn prepare(job: &Job) -> Result<Vec<File>, JailError> {
    let failed = |step| move |source| JailError { step, source };
    let files = sys::take_files(job.task.descriptors()).map_err(failed("taking the job's descriptors"))?;
    sys::end_by_signals().map_err(failed("handling signals"))?;
    confine::confine(job)?;
    Ok(files)
}

fn run(job: &Job, files: Vec<File>) -> Result<Outcome, ConvertError> {
    let mut files = files.into_iter();
    let mut next = || files.next().ok_or_else(|| ConvertError::Unsupported("a descriptor is missing".into()));
    match &job.task {
        Task::Unpack => unpack(io::stdin().lock(), next()?, &job.limits).map(|()| Outcome::Unpacked),
        Task::Layer => {
            let (data, tree) = (next()?, next()?);
            convert_layer(io::stdin().lock(), &data, &tree, &job.limits).map(Outcome::Layer)
        }
        Task::Image { layers, uuid } => {
            let meta = next()?;
            let layers = layers
                .iter()
                .map(|data_len| Ok(LayerInput { tree: next()?, data_len: *data_len }))
                .collect::<Result<Vec<_>, ConvertError>>()?;
            let built = build_image(&layers, *uuid, &meta, &job.limits)?;
            Ok(Outcome::Image { meta_len: built.meta_len, disk: built.disk })
        }
        Task::Qcow2 { offset, length } => {
            let (disk, file) = (next()?, next()?);
            let source = FilePiece { file: &file, offset: *offset, length: *length };
            convert_qcow2(&source, &disk, &job.limits).map(|bytes| Outcome::Disk { bytes })
        }
    }
}
