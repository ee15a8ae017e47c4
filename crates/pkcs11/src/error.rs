//! What a token answers, as what a store of keys says.

use std::error::Error as StdError;

use cryptoki::context::Function;
use cryptoki::error::{Error, RvError};
use vmkeep_envelope::{KeyStoreError, KeyUrl, WrapAlgorithm};

/// What the token was asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Asked {
    /// What is there.
    Look,
    Wrap {
        algorithm: WrapAlgorithm,
        len: usize,
    },
    Unwrap {
        algorithm: WrapAlgorithm,
    },
}

/// Why a PIN was refused, when it was.
pub(crate) fn credentials(answer: RvError) -> Option<&'static str> {
    Some(match answer {
        RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange => "the PIN is wrong",
        RvError::PinExpired => "the PIN has expired",
        RvError::PinLocked => "the PIN is locked after too many wrong ones",
        RvError::UserPinNotInitialized => "no PIN has been set yet",
        _ => return None,
    })
}

pub(crate) fn unreachable(store: &str, source: impl StdError + Send + Sync + 'static) -> KeyStoreError {
    KeyStoreError::Unreachable { store: store.to_owned(), source: Box::new(source) }
}

/// An answer that is about no key.
pub(crate) fn plain(error: Error, store: &str, asked: Asked) -> KeyStoreError {
    answer(error, store, store, asked)
}

/// An answer that is about the key of `url`.
pub(crate) fn failed(error: Error, store: &str, url: &KeyUrl, asked: Asked) -> KeyStoreError {
    answer(error, store, &url.to_string(), asked)
}

fn answer(error: Error, store: &str, url: &str, asked: Asked) -> KeyStoreError {
    let Error::Pkcs11(value, _) = &error else { return unreachable(store, error) };
    let url = url.to_owned();
    match (*value, asked) {
        (answer, _) if credentials(answer).is_some() => {
            let why = credentials(answer).unwrap_or_default().to_owned();
            KeyStoreError::Credentials { store: store.to_owned(), why }
        }
        (
            RvError::KeyHandleInvalid
            | RvError::ObjectHandleInvalid
            | RvError::WrappingKeyHandleInvalid
            | RvError::UnwrappingKeyHandleInvalid,
            _,
        ) => KeyStoreError::NotFound { url },
        (RvError::KeyFunctionNotPermitted | RvError::ActionProhibited, Asked::Wrap { .. }) => {
            KeyStoreError::Forbidden { url, permission: "wrap with (CKA_ENCRYPT or CKA_WRAP)".to_owned() }
        }
        (RvError::KeyFunctionNotPermitted | RvError::ActionProhibited, _) => {
            KeyStoreError::Forbidden { url, permission: "unwrap with (CKA_DECRYPT or CKA_UNWRAP)".to_owned() }
        }
        (
            RvError::MechanismInvalid | RvError::MechanismParamInvalid | RvError::FunctionNotSupported,
            Asked::Wrap { algorithm, .. } | Asked::Unwrap { algorithm },
        ) => KeyStoreError::Algorithm { url, algorithm },
        (RvError::DataLenRange | RvError::DataInvalid, Asked::Wrap { algorithm, len }) => {
            KeyStoreError::Length { url, algorithm, len }
        }
        (
            RvError::EncryptedDataInvalid
            | RvError::EncryptedDataLenRange
            | RvError::WrappedKeyInvalid
            | RvError::WrappedKeyLenRange,
            Asked::Unwrap { .. },
        ) => KeyStoreError::NotUnwrapped { url },
        _ => unreachable(store, error),
    }
}

/// Whether a new session may answer what this one did not.
pub(crate) fn again(error: &KeyStoreError) -> bool {
    let KeyStoreError::Unreachable { source, .. } = error else { return false };
    matches!(
        source.downcast_ref(),
        Some(Error::Pkcs11(
            RvError::SessionHandleInvalid
                | RvError::SessionClosed
                | RvError::UserNotLoggedIn
                | RvError::OperationActive
                | RvError::DeviceRemoved
                | RvError::DeviceError
                | RvError::TokenNotPresent,
            _
        ))
    )
}

/// Whether a token that was asked to encrypt says that it does not know how.
pub(crate) fn is_unknown_mechanism(error: &Error) -> bool {
    matches!(
        error,
        Error::Pkcs11(
            RvError::ArgumentsBad
                | RvError::MechanismInvalid
                | RvError::MechanismParamInvalid
                | RvError::FunctionNotSupported,
            Function::EncryptInit | Function::Encrypt
        )
    )
}
