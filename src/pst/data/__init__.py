"""Readers of data sets in folders, YOLO, COCO and masks, and an embedded set that needs no download."""
