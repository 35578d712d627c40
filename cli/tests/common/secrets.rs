//! What may stand in no message: seeds, private keys, tokens.

/// The first secret in a text, told by its beginning.
pub fn in_text(text: &str) -> Option<String> {
    if text.contains("PRIVATE KEY") || text.contains("SEED---") {
        return Some("a private key".to_owned());
    }
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_' | '.'));
    words.into_iter().find(|word| is_seed(word) || is_token(word)).map(|word| {
        let shown: String = word.chars().take(6).collect();
        format!("{shown}…")
    })
}

/// The seed of a NATS key: base32, beginning with S and its kind.
fn is_seed(word: &str) -> bool {
    let kind = ["SO", "SA", "SU", "SX", "SN", "SC"].iter().any(|kind| word.starts_with(kind));
    kind && word.len() == 58 && word.bytes().all(|b| matches!(b, b'A'..=b'Z' | b'2'..=b'7'))
}

/// A JWT: `{"` in base64, and something behind a dot.
fn is_token(word: &str) -> bool {
    word.starts_with("eyJ") && word.split_once('.').is_some_and(|(_, rest)| rest.len() > 20)
}
