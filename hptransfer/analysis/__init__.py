"""From a table of outcomes to the law of the optimum, the target's prediction and the page.

    records.load_table     a table of anybody's runs, checked
    fit.fit_table          optimum of every scale, the law, draws, verdicts
    predict.predict_table  predictions for target scales, with 90% intervals
    pipeline.analyze_table all of it, written into a folder with report.html

Losses are in nats; x is log2 of the tuned hyperparameter; one unit of x is an octave.
"""
