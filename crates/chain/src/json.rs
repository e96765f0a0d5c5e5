//! The JSON of `json:` names, as QEMU reads it: single quotes too, its own messages, duplicate keys refused.
//!
//! Pure and total: no text makes it panic or recurse deeper than [`MAX_DEPTH`].

use diskimg_core::options::RuntimeValue;

/// The deepest nesting of objects and lists.
pub(crate) const MAX_DEPTH: usize = 128;

/// A parsed value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Json {
    Scalar(RuntimeValue),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

/// Parses one value that takes up all of `text`. The error is QEMU's message.
pub(crate) fn parse(text: &str) -> Result<Json, String> {
    let mut parser = Parser { text, at: 0 };
    let Some(first) = parser.token()? else { return Err("Expecting a JSON value".into()) };
    let value = parser.value(Some(first), 0)?;
    match parser.token() {
        Ok(None) => Ok(value),
        _ => Err("Expecting at most one JSON value".into()),
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Token<'a> {
    Mark(char),
    Word(&'a str),
    Number(&'a str),
    /// With its quotes.
    Text(&'a str),
}

#[derive(Debug)]
struct Parser<'a> {
    text: &'a str,
    at: usize,
}

fn failed<T>(what: impl AsRef<str>) -> Result<T, String> {
    Err(format!("JSON parse error, {}", what.as_ref()))
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn take(&mut self, len: usize) -> &'a str {
        let (token, _) = self.rest().split_at_checked(len).unwrap_or((self.rest(), ""));
        self.at += token.len();
        token
    }

    /// The text of a token that went wrong: up to and including the character at `len`.
    fn stray<T>(&self, len: usize) -> Result<T, String> {
        let rest = self.rest();
        let bad = rest.get(len..).and_then(|rest| rest.chars().next()).map_or(0, char::len_utf8);
        failed(format!("stray '{}'", rest.get(..len + bad).unwrap_or(rest)))
    }

    fn token(&mut self) -> Result<Option<Token<'a>>, String> {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n']).len();
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return Ok(None) };
        Ok(Some(match first {
            '{' | '}' | '[' | ']' | ':' | ',' => {
                self.take(1);
                Token::Mark(first)
            }
            'a'..='z' => {
                let len = rest.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(rest.len());
                Token::Word(self.take(len))
            }
            '-' | '0'..='9' => Token::Number(self.number()?),
            '"' | '\'' => Token::Text(self.quoted(first)?),
            _ => return self.stray(0),
        }))
    }

    fn number(&mut self) -> Result<&'a str, String> {
        let bytes = self.rest().as_bytes();
        let digits = |from: usize| bytes.iter().skip(from).take_while(|byte| byte.is_ascii_digit()).count();
        let is = |at: usize, set: &[u8]| bytes.get(at).is_some_and(|byte| set.contains(byte));
        let mut at = usize::from(is(0, b"-"));
        let whole = digits(at);
        if whole == 0 {
            return self.stray(at);
        }
        if is(at, b"0") && whole > 1 {
            return self.stray(at + 1);
        }
        at += whole;
        if is(at, b".") {
            let fraction = digits(at + 1);
            at += 1 + fraction;
            if fraction == 0 {
                return self.stray(at);
            }
        }
        if is(at, b"eE") {
            at += 1 + usize::from(is(at + 1, b"+-"));
            let exponent = digits(at);
            if exponent == 0 {
                return self.stray(at);
            }
            at += exponent;
        }
        Ok(self.take(at))
    }

    fn quoted(&mut self, quote: char) -> Result<&'a str, String> {
        let mut escaped = false;
        for (at, c) in self.rest().char_indices().skip(1) {
            if c < ' ' {
                return self.stray(at);
            } else if escaped {
                escaped = false;
            } else if c == '\\' {
                escaped = true;
            } else if c == quote {
                return Ok(self.take(at + 1));
            }
        }
        self.stray(self.rest().len())
    }

    fn value(&mut self, token: Option<Token<'a>>, depth: usize) -> Result<Json, String> {
        if depth > MAX_DEPTH {
            return Err("JSON nesting depth limit exceeded".into());
        }
        Ok(match token {
            None => return failed("premature EOI"),
            Some(Token::Mark('{')) => Json::Object(self.object(depth)?),
            Some(Token::Mark('[')) => Json::List(self.list(depth)?),
            Some(Token::Mark(_)) => return failed("expecting value"),
            Some(Token::Text(quoted)) => Json::Scalar(RuntimeValue::Str(unquote(quoted)?)),
            Some(Token::Number(digits)) => Json::Scalar(to_number(digits)),
            Some(Token::Word("true")) => Json::Scalar(RuntimeValue::Bool(true)),
            Some(Token::Word("false")) => Json::Scalar(RuntimeValue::Bool(false)),
            Some(Token::Word("null")) => Json::Scalar(RuntimeValue::Null),
            Some(Token::Word(word)) => return failed(format!("invalid keyword '{word}'")),
        })
    }

    fn object(&mut self, depth: usize) -> Result<Vec<(String, Json)>, String> {
        let mut pairs: Vec<(String, Json)> = Vec::new();
        let mut token = self.token()?;
        if token == Some(Token::Mark('}')) {
            return Ok(pairs);
        }
        loop {
            let key = match self.value(token, depth + 1)? {
                Json::Scalar(RuntimeValue::Str(key)) => key,
                _ => return failed("key is not a string in object"),
            };
            match self.token()? {
                Some(Token::Mark(':')) => {}
                None => return failed("premature EOI"),
                Some(_) => return failed("missing : in object pair"),
            }
            let value = self.token()?;
            let value = self.value(value, depth + 1)?;
            if pairs.iter().any(|(known, _)| *known == key) {
                return failed("duplicate key");
            }
            pairs.push((key, value));
            match self.token()? {
                Some(Token::Mark('}')) => return Ok(pairs),
                Some(Token::Mark(',')) => token = self.token()?,
                None => return failed("premature EOI"),
                Some(_) => return failed("expected separator in dict"),
            }
        }
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Json>, String> {
        let mut items = Vec::new();
        let mut token = self.token()?;
        if token == Some(Token::Mark(']')) {
            return Ok(items);
        }
        loop {
            items.push(self.value(token, depth + 1)?);
            match self.token()? {
                Some(Token::Mark(']')) => return Ok(items),
                Some(Token::Mark(',')) => token = self.token()?,
                None => return failed("premature EOI"),
                Some(_) => return failed("expected separator in list"),
            }
        }
    }
}

fn to_number(digits: &str) -> RuntimeValue {
    if let Ok(number) = digits.parse() {
        return RuntimeValue::Int(number);
    }
    if let Ok(number) = digits.parse() {
        return RuntimeValue::Uint(number);
    }
    RuntimeValue::Float(digits.parse().unwrap_or(0.0))
}

fn unquote(quoted: &str) -> Result<String, String> {
    let inner = quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default();
    let mut text = String::with_capacity(inner.len());
    let mut rest = inner;
    while let Some(at) = rest.find('\\') {
        let (plain, escape) = rest.split_at_checked(at).unwrap_or((rest, ""));
        text.push_str(plain);
        let simple = match escape.as_bytes().get(1) {
            Some(b'"') => Some('"'),
            Some(b'\'') => Some('\''),
            Some(b'\\') => Some('\\'),
            Some(b'/') => Some('/'),
            Some(b'b') => Some('\u{8}'),
            Some(b'f') => Some('\u{c}'),
            Some(b'n') => Some('\n'),
            Some(b'r') => Some('\r'),
            Some(b't') => Some('\t'),
            _ => None,
        };
        let len = match (simple, escape.as_bytes().get(1)) {
            (Some(c), _) => {
                text.push(c);
                2
            }
            (None, Some(b'u')) => {
                let (c, len) = unicode(escape, quoted)?;
                text.push(c);
                len
            }
            _ => return failed("invalid escape sequence in string"),
        };
        rest = escape.get(len..).unwrap_or_default();
    }
    text.push_str(rest);
    Ok(text)
}

/// The character of `\uXXXX` or of a pair of surrogates at the start of `escape`, and the bytes it takes.
fn unicode(escape: &str, quoted: &str) -> Result<(char, usize), String> {
    let unit = |at: usize| {
        let digits = escape.get(at..at + 6)?.strip_prefix("\\u")?;
        digits.chars().all(|c| c.is_ascii_hexdigit()).then(|| u16::from_str_radix(digits, 16).ok())?
    };
    let one = unit(0).filter(|unit| *unit != 0);
    let units: Vec<u16> = one.into_iter().chain(one.and_then(|_| unit(6))).collect();
    match char::decode_utf16(units).next() {
        Some(Ok(c)) => Ok((c, c.len_utf16() * 6)),
        _ => {
            // The message shows six characters, the closing quote among them.
            let from = quoted.len().saturating_sub(escape.len() + 1);
            let shown: String = quoted.get(from..).unwrap_or(escape).chars().take(6).collect();
            failed(format!("{shown} is not a valid Unicode character"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_those_of_qemu() {
        let rows = [
            ("", "Expecting a JSON value"),
            ("{", "JSON parse error, premature EOI"),
            ("}", "JSON parse error, expecting value"),
            (r#"{"a""#, "JSON parse error, premature EOI"),
            (r#"{"a":1,"#, "JSON parse error, premature EOI"),
            (r#"{"a":1,}"#, "JSON parse error, expecting value"),
            ("{a:1}", "JSON parse error, invalid keyword 'a'"),
            (r#"{"a" 1}"#, "JSON parse error, missing : in object pair"),
            (r#"{"a":1 "b":2}"#, "JSON parse error, expected separator in dict"),
            ("{1:2}", "JSON parse error, key is not a string in object"),
            (r#"{"a":tru}"#, "JSON parse error, invalid keyword 'tru'"),
            (r#"{"a":01}"#, "JSON parse error, stray '01'"),
            (r#"{"a":-}"#, "JSON parse error, stray '-}'"),
            (r#"{"a":1.}"#, "JSON parse error, stray '1.}'"),
            (r#"{"a":1e}"#, "JSON parse error, stray '1e}'"),
            (r#"{"a":"x"#, "JSON parse error, stray '\"x'"),
            (r#"{"a":"\q"}"#, "JSON parse error, invalid escape sequence in string"),
            (r#"{"a":"\u12"}"#, "JSON parse error, \\u12\" is not a valid Unicode character"),
            (r#"{"a":"\ud800"}"#, "JSON parse error, \\ud800 is not a valid Unicode character"),
            (r#"{"a":[1 2]}"#, "JSON parse error, expected separator in list"),
            (r#"{"a":[}"#, "JSON parse error, expecting value"),
            (r#"{"a":1}}"#, "Expecting at most one JSON value"),
            (r#"{"a":1} x"#, "Expecting at most one JSON value"),
            ("@", "JSON parse error, stray '@'"),
            ("{\"a\":\"\u{1}\"}", "JSON parse error, stray '\"\u{1}'"),
            (r#"{"a":1,"a":2}"#, "JSON parse error, duplicate key"),
            (r#"{"a":+1}"#, "JSON parse error, stray '+'"),
        ];
        for (text, message) in rows {
            assert_eq!(parse(text), Err(message.to_owned()), "{text}");
        }
    }

    #[test]
    fn values_keep_their_types() {
        let text = r#" {'a':'x\'"y','b':[1,-2,18446744073709551615,1.5e1,true,null,{}],"c":"\u00e9\ud83d\ude00\n"} "#;
        let Ok(Json::Object(pairs)) = parse(text) else { panic!("{:?}", parse(text)) };
        assert_eq!(pairs[0].1, Json::Scalar(RuntimeValue::Str("x'\"y".into())));
        let Json::List(items) = &pairs[1].1 else { panic!() };
        assert_eq!(items[1], Json::Scalar(RuntimeValue::Int(-2)));
        assert_eq!(items[2], Json::Scalar(RuntimeValue::Uint(u64::MAX)));
        assert_eq!(items[3], Json::Scalar(RuntimeValue::Float(15.0)));
        assert_eq!(items[6], Json::Object(vec![]));
        assert_eq!(pairs[2].1, Json::Scalar(RuntimeValue::Str("é😀\n".into())));
    }

    #[test]
    fn deep_nesting_ends_in_an_error() {
        assert!(parse(&"[".repeat(100_000)).is_err());
        assert!(parse(&r#"{"a":"#.repeat(100_000)).is_err());
    }
}
