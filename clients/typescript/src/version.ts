/** The client's version, which is the protocol's. */
export const VERSION = "0.1.0";
/** What a worker says it is written with. */
export const SDK = `stepwell-typescript/${VERSION}`;
