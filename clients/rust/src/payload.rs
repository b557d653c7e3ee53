//! Values as payloads: JSON text, as all clients write it.

use serde::{Serialize, de::DeserializeOwned};

use crate::pb::{Payload, payload::Body};

/// A value that is not to be written, or a payload that is not to be read as what was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PayloadError {
    /// The value is not to be written as JSON.
    #[error("the value can't be written as JSON: {0}")]
    Write(#[source] serde_json::Error),
    /// The value has so many bytes of JSON, which the service does not take: 2 MiB at most.
    #[error("the value has {0} bytes of JSON, and a payload at most 2 MiB: send a reference")]
    TooLarge(usize),
    /// The payload's JSON does not fit the type.
    #[error("the payload does not fit: {0}")]
    Read(#[source] serde_json::Error),
    /// The payload has no JSON but other bytes, of a codec or another converter.
    #[error("the payload has bytes and no JSON")]
    Bytes,
}

const PAYLOAD_BYTES: usize = 2 << 20;

/// Writes a value. What is `null` in JSON is a payload without a body.
///
/// # Errors
///
/// [`PayloadError::Write`], for what JSON does not have, such as a map whose keys are no texts; [`PayloadError::TooLarge`].
pub fn to_payload<T: Serialize + ?Sized>(value: &T) -> Result<Payload, PayloadError> {
    let text = serde_json::to_string(value).map_err(PayloadError::Write)?;
    if text.len() > PAYLOAD_BYTES {
        return Err(PayloadError::TooLarge(text.len()));
    }
    let body = (text != "null").then_some(Body::Json(text));
    Ok(Payload { body, ..Payload::default() })
}

/// Reads a payload. None, and one without a body, is `null`.
///
/// # Errors
///
/// [`PayloadError::Read`] if it does not fit the type, [`PayloadError::Bytes`] if it is no JSON.
pub fn from_payload<T: DeserializeOwned>(payload: Option<&Payload>) -> Result<T, PayloadError> {
    let text = match payload.and_then(|payload| payload.body.as_ref()) {
        None => "null",
        Some(Body::Json(text)) => text,
        Some(Body::Data(_) | Body::Value(_)) => return Err(PayloadError::Bytes),
    };
    serde_json::from_str(text).map_err(PayloadError::Read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_has_no_body() {
        assert_eq!(to_payload(&()).unwrap(), Payload::default());
        assert_eq!(from_payload::<Option<i32>>(None).unwrap(), None);
        assert_eq!(from_payload::<Option<i32>>(Some(&Payload::default())).unwrap(), None);
    }

    #[test]
    fn values_come_back() {
        let payload = to_payload(&vec!["a", "ß"]).unwrap();
        assert_eq!(payload.body, Some(Body::Json(r#"["a","ß"]"#.into())));
        assert_eq!(from_payload::<Vec<String>>(Some(&payload)).unwrap(), ["a", "ß"]);
    }

    #[test]
    fn what_is_too_large_is_not_written() {
        let largest = "x".repeat(PAYLOAD_BYTES - 2);
        assert!(to_payload(&largest).is_ok());
        assert!(matches!(to_payload(&format!("{largest}x")), Err(PayloadError::TooLarge(2_097_153))));
    }

    #[test]
    fn bytes_are_not_read_as_null() {
        let payload = Payload { body: Some(Body::Data(vec![1])), ..Payload::default() };
        assert!(matches!(from_payload::<Option<i32>>(Some(&payload)), Err(PayloadError::Bytes)));
    }
}
