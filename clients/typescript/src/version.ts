/** The client's version, which is the protocol's. */
export const VERSION = "0.1.0";
export const SDK = `stepwell-typescript/${VERSION}`;
