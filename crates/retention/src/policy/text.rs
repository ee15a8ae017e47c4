//! x
#[derive(Debug)]
pub struct TextError;
