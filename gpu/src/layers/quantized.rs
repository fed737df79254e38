//! What [`Loader`] does for layers that a checkpoint has quantized: the same cuts, of codes and
//! scales instead of floats.

use std::ops::Range;

use super::loader::{Loader, RowPart, bias_of};
use crate::{
    backend::Backend,
    error::DeviceError,
    quant::{self, Cut, QuantizedPart, QuantizedSource},
    tensor::{DenseMatrix, LinearSource, WeightSource},
    weights::Held,
};

impl<'a, B: Backend> Loader<'a, B> {
    /// [`Loader::column_parallel`] of quantized layers; none if these are not.
    pub(super) fn quantized_columns(
        &mut self,
        in_features: usize,
        parts: &[RowPart],
    ) -> Result<Option<B::Linear>, DeviceError> {
        let cut = |part: &RowPart| Cut {
            shape: (part.rows, in_features),
            outputs: part.own.clone(),
            inputs: 0..in_features,
        };
        let read = |part: &RowPart| quant::part(&self.reader, &part.name, &cut(part));
        let read = parts.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let Some(first) = parts.first().filter(|_| read.iter().any(Option::is_some)) else {
            return Ok(None);
        };
        let mut biases = Vec::with_capacity(parts.len());
        let mut quantized = Vec::with_capacity(parts.len());
        for (part, read) in parts.iter().zip(read) {
            let Some(read) = read else {
                return Err(DeviceError::Unsupported(format!(
                    "`{}` is not quantized, but layers are that are computed with it: quantize all \
                     of {} or none",
                    part.name,
                    parts.iter().map(|part| part.name.as_str()).collect::<Vec<_>>().join(", ")
                )));
            };
            let bias = part.bias.then(|| self.stored_vector(&bias_of(&part.name), part.rows));
            biases.push(bias.transpose()?);
            self.note_part(&part.name, part.held, &read, part.bias);
            quantized.push(read);
        }
        for ((part, read), bias) in parts.iter().zip(&mut quantized).zip(&biases) {
            let own = |bias: &DenseMatrix<'a>| -> Result<DenseMatrix<'a>, DeviceError> {
                let (own, row) = (part.own.clone(), bias.row(0));
                let size = bias.dtype().size();
                let bytes = row[own.start * size..own.end * size].to_vec();
                DenseMatrix::new(bytes, bias.dtype(), (1, own.len()))
            };
            read.bias = bias.as_ref().map(own).transpose()?;
        }
        let names: Vec<&str> = parts.iter().map(|part| part.name.as_str()).collect();
        let rounding = quant::rounding(&self.reader, &names, &cut(first))?;
        self.prepare_codes(in_features, QuantizedSource { parts: quantized, rounding }).map(Some)
    }

    /// [`Loader::row_parallel`] of a quantized layer; none if it is not.
    pub(super) fn quantized_rows(
        &mut self,
        name: &str,
        shape: (usize, usize),
        columns: Range<usize>,
        bias: bool,
    ) -> Result<Option<B::Linear>, DeviceError> {
        let in_features = columns.len();
        let cut = Cut { shape, outputs: 0..shape.0, inputs: columns };
        let Some(mut part) = quant::part(&self.reader, name, &cut)? else { return Ok(None) };
        if bias && self.reader.shard().is_first() {
            part.bias = Some(self.stored_vector(&bias_of(name), shape.0)?);
        }
        self.note_part(name, Held::Sharded, &part, part.bias.is_some());
        let rounding = quant::rounding(&self.reader, &[name], &cut)?;
        self.prepare_codes(in_features, QuantizedSource { parts: vec![part], rounding }).map(Some)
    }

    fn note_part(&mut self, name: &str, held: Held, part: &QuantizedPart<'_>, has_bias: bool) {
        let bias = part.codes.outputs() * self.reader.storage().size();
        let bytes = part.bytes() + if has_bias { bias } else { 0 };
        self.reader.note_bytes(name, held, bytes);
    }

    fn prepare_codes(
        &mut self,
        in_features: usize,
        source: QuantizedSource<'_>,
    ) -> Result<B::Linear, DeviceError> {
        let (storage, weights) = (self.reader.storage(), WeightSource::Quantized(source));
        self.backend.prepare_linear(&LinearSource { in_features, weights, storage, quantize: None })
    }
}
