//! How an exec or attach ended, as its error stream says it: Kubernetes' `metav1.Status`.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::error::Error;

/// Success, or the code of a command that failed.
pub fn exited(code: i32) -> Bytes {
    if code == 0 {
        return text(json!({"metadata": {}, "status": "Success"}));
    }
    text(json!({
        "metadata": {},
        "status": "Failure",
        "reason": "NonZeroExitCode",
        "message": format!("command terminated with non-zero exit code: {code}"),
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
    }))
}

/// It could not be done, or not to the end.
pub fn failed(error: &Error) -> Bytes {
    text(json!({
        "metadata": {},
        "status": "Failure",
        "reason": "InternalError",
        "message": format!("Internal error occurred: {error}"),
        "details": {"causes": [{"message": error.to_string()}]},
        "code": 500,
    }))
}

fn text(status: Value) -> Bytes {
    status.to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(status: Bytes) -> Value {
        serde_json::from_slice(&status).unwrap()
    }

    #[test]
    fn codes_and_errors_are_told() {
        assert_eq!(parsed(exited(0))["status"], "Success");
        let failure = parsed(exited(42));
        assert_eq!((&failure["status"], &failure["reason"]), (&json!("Failure"), &json!("NonZeroExitCode")));
        assert_eq!(failure["details"]["causes"], json!([{"reason": "ExitCode", "message": "42"}]));
        let error = parsed(failed(&Error::State("no \"such\" command".into())));
        assert_eq!(error["details"]["causes"][0]["message"], "no \"such\" command");
    }
}
