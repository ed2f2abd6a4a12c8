//! Finding a point: the grammar of `GUEST@POINT`.
