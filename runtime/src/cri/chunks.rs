//! Long lists as streams of messages of bounded size.

use futures_util::stream;
use prost::Message;
use tonic::codegen::BoxStream;

/// The most bytes of items in one message, far below what any client accepts; one item may be larger by itself.
const MAX_BYTES: usize = 1 << 20;

/// The items in lists of at least one, each made a message by `wrap`.
pub fn stream<T, R>(items: Vec<T>, wrap: fn(Vec<T>) -> R) -> BoxStream<R>
where
    T: Message + 'static,
    R: Send + 'static,
{
    let messages: Vec<_> = split(items).into_iter().map(|chunk| Ok(wrap(chunk))).collect();
    Box::pin(stream::iter(messages))
}

fn split<T: Message>(items: Vec<T>) -> Vec<Vec<T>> {
    let mut chunks: Vec<Vec<T>> = Vec::new();
    let mut room = 0;
    for item in items {
        let bytes = item.encoded_len();
        match chunks.last_mut() {
            Some(chunk) if bytes <= room => {
                chunk.push(item);
                room -= bytes;
            }
            _ => {
                chunks.push(vec![item]);
                room = MAX_BYTES.saturating_sub(bytes);
            }
        }
    }
    chunks
}

#[cfg(test)]
mod tests {
    use husk_proto::cri::Image;

    use super::*;

    fn image(number: usize, bytes: usize) -> Image {
        Image { id: format!("{number}{}", "x".repeat(bytes - 1)), ..Default::default() }
    }

    #[test]
    fn every_item_comes_once_and_in_bounded_lists() {
        assert!(split::<Image>(Vec::new()).is_empty());
        let sizes = [1, 10, MAX_BYTES / 2, MAX_BYTES / 2, 10, MAX_BYTES * 3, 1, 1];
        let items: Vec<Image> = sizes.iter().enumerate().map(|(n, bytes)| image(n, *bytes)).collect();
        let chunks = split(items.clone());
        for chunk in &chunks {
            let bytes: usize = chunk.iter().map(Message::encoded_len).sum();
            assert!(!chunk.is_empty() && (bytes <= MAX_BYTES || chunk.len() == 1), "{bytes}");
        }
        assert!((3..=5).contains(&chunks.len()), "{} lists", chunks.len());
        assert_eq!(chunks.concat(), items);
    }
}
