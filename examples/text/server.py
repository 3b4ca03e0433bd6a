"""Which language a text is in: a linear classifier of scikit-learn behind a LitAPI."""

from pathlib import Path
from typing import Any

import litserve
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

SENTENCES = Path(__file__).with_name("sentences.tsv")


def trained() -> Pipeline:
    """The classifier, trained on sentences.tsv: a second, and the same each time."""
    labels, texts = zip(
        *(line.split("\t") for line in SENTENCES.read_text(encoding="utf-8").splitlines()), strict=True
    )
    vectoriser = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True)
    return make_pipeline(vectoriser, LogisticRegression(C=100.0, max_iter=1000)).fit(texts, labels)


class TextAPI(litserve.LitAPI):
    """Takes {"text": ...}, answers with the language and its probability."""

    def setup(self, device: str) -> None:
        """Each worker has the classifier."""
        self.classifier = trained()

    def decode_request(self, request) -> str:
        """The text."""
        return str(request["text"])

    def predict(self, texts: str | list[str]) -> Any:
        """A text where LitServe does not batch, a list of texts where it does."""
        batch = [texts] if isinstance(texts, str) else texts
        probabilities = self.classifier.predict_proba(batch)
        labels = self.classifier.classes_[probabilities.argmax(axis=1)]
        answers = list(zip(labels, probabilities.max(axis=1), strict=True))
        return answers[0] if isinstance(texts, str) else answers

    def encode_response(self, output: tuple[str, float]) -> dict[str, Any]:
        """The answer."""
        language, probability = output
        return {"language": language, "probability": round(float(probability), 4)}


if __name__ == "__main__":
    litserve.LitServer(TextAPI(max_batch_size=8, batch_timeout=0.002)).run(port=8000)
