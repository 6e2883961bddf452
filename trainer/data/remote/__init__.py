"""Files of data on other machines (s3://, gs://, https://): found, watched for changes, and read at random through a
bounded cache on local disk.
"""
