/** How much goes into one message. */

/** The service refuses messages of more than 4 MiB. */
export const MOST_BYTES = 1_000_000;

/** Takes from a queue what one message has room for: of so many things at most, one at least, those that may go with it. */
export function takeSome<T extends { readonly size: number }>(queue: T[], most: number, mayGo = (_: T) => true): T[] {
  let bytes = 0;
  const left = queue.findIndex((each, place) => {
    bytes += each.size;
    return place > 0 && (place >= most || bytes > MOST_BYTES || !mayGo(each));
  });
  return queue.splice(0, left < 0 ? queue.length : left);
}
